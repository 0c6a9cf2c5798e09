"""Which series of a study are segmented: the one asked for, or else the sagittal T2-weighted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.inference.dicom.series import DicomSeries
from cps4_monai.inference.dicom.weighting import T2, T2_FAT_SUPPRESSED, T2_IN_PHASE, UNKNOWN, plain_words

_WEIGHTINGS = (T2, T2_IN_PHASE, T2_FAT_SUPPRESSED, UNKNOWN)
_FEW_IMAGES = 3


@dataclass(frozen=True)
class SeriesChoice:
    """What is segmented and what is not.

    Attributes:
        taken: series to segment, equally good, each with notes on what was passed over for it.
        passed_over: the others, with reasons.
    """

    taken: tuple[DicomSeries, ...]
    passed_over: tuple[tuple[DicomSeries, str], ...]


def choose_series(series: Sequence[DicomSeries], wanted: str | int | None = None) -> SeriesChoice:
    """Chooses among the series of one study.

    Without a wish: no localizers and what holds no MR image; sagittal before other planes; then T2-weighted, before the
    T2-weighted image in phase of a Dixon scan, before fat-suppressed, before unknown, before other weightings; original
    before derived; stacks before one or two images.
    Several that are equal in all of this are all taken (stations, a repeated scan).

    Args:
        series: of one study.
        wanted: a SeriesNumber, a SeriesInstanceUID, or a part of the description in any case; of several series with
            that part the best is chosen as above. A localizer is taken if nothing else fits.

    Raises:
        ValueError: ``wanted`` has no letter and no digit.
    """
    if wanted is not None and not plain_words(str(wanted)):
        raise ValueError(f"series is {wanted!r}; expected a number, a UID or a part of a description")
    passed: list[tuple[DicomSeries, str]] = [
        (candidate, candidate.no_image) for candidate in series if candidate.no_image
    ]
    images = [candidate for candidate in series if not candidate.no_image]
    if wanted is not None:
        fitting = [candidate for candidate in images if fits(candidate, wanted)]
        passed += [(candidate, f"not series {wanted!r}") for candidate in images if candidate not in fitting]
        images = fitting
    scans = [candidate for candidate in images if not candidate.localizer]
    if wanted is not None and not scans:
        scans = images
    passed += [(candidate, "a localizer") for candidate in images if candidate not in scans]
    best = min(map(_rank, scans), default=None)
    taken = [candidate for candidate in scans if _rank(candidate) == best]
    passed += [(candidate, _why_not(candidate, taken[0])) for candidate in scans if _rank(candidate) != best]
    notes = tuple(f"passed over {candidate}: {reason}" for candidate, reason in passed)
    if len(series) > 1:
        equal = "" if len(taken) < 2 else ", equally good"
        notes = (f"taken of {len(series)} series: {'; '.join(map(str, taken))}{equal}", *notes)
    return SeriesChoice(
        tuple(replace(candidate, notes=(*notes, *candidate.notes)) for candidate in taken), tuple(passed)
    )


def check_fits(series: DicomSeries, wanted: str | int | None, file: Path) -> None:
    """Checks that the series of a file that a user named is the one wished for, if one is.

    Raises:
        InvalidVolumeError: it is another one.
    """
    if wanted is not None and not fits(series, wanted):
        raise InvalidVolumeError(
            file,
            f"a file of {series}",
            f"one of series {wanted!r}, as --series (series) says",
            "name the folder, or leave --series out",
        )


def fits(series: DicomSeries, wanted: str | int) -> bool:
    """Whether a series is the one that a user named by number, UID or a part of its description."""
    wanted = str(wanted).strip()
    if wanted.isdecimal():
        return series.number == int(wanted)
    return series.uid == wanted or plain_words(wanted) in plain_words(series.description)


def _rank(series: DicomSeries) -> tuple[bool, int, bool, bool]:
    """Lower is better."""
    place = _WEIGHTINGS.index(series.weighting) if series.weighting in _WEIGHTINGS else len(_WEIGHTINGS)
    return series.plane not in ("", "sagittal"), place, series.derived, len(series.images) < _FEW_IMAGES


def _why_not(passed: DicomSeries, best: DicomSeries) -> str:
    mine, other = _rank(passed), _rank(best)
    reasons = (f"{passed.plane}, not sagittal", passed.weighting, "derived from other images", "few images")
    return next(reason for reason, a, b in zip(reasons, mine, other, strict=True) if a != b)
