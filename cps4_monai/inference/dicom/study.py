"""DICOM folders of one search: the series of each study chosen together, wherever they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cps4_monai.inference.dicom.choice import check_fits, choose_series
from cps4_monai.inference.dicom.series import DicomSeries, list_series, series_of_file


@dataclass
class FoundSeries:
    """What the DICOM folders of a search, or files named one by one, hold.

    Attributes:
        taken: series to segment with the part of the output's name that tells them from others of their folder, if any.
        skipped: folders (or files) with series that are not, each with the reason.
        failures: folders (or files) that cannot be used.
    """

    taken: list[tuple[DicomSeries, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)


def find_series(folders: Sequence[Path], wanted: str | int | None = None) -> FoundSeries:
    """Chooses among the series of each study, those of other folders included; headers only are read.

    Args:
        folders: with DICOM files.
        wanted: see :func:`choose_series`.

    Raises:
        ValueError: see :func:`choose_series`.
    """
    listing = FoundSeries()
    studies: dict[tuple[str, ...], list[DicomSeries]] = {}
    for folder in folders:
        try:
            series = list_series(folder)
        except (ValueError, ImportError) as error:
            listing.failures.append((folder, str(error)))
            continue
        for candidate in series:
            # Without a StudyInstanceUID (some anonymisers remove it) a folder is taken for a study.
            key = candidate.study if candidate.study[1] else (str(folder),)
            studies.setdefault(key, []).append(candidate)
    taken: list[DicomSeries] = []
    for members in studies.values():
        choice = choose_series(members, wanted)
        taken += choice.taken
        listing.skipped += [
            (candidate.folder, f"{candidate}: {reason}{_instead(choice.taken)}")
            for candidate, reason in choice.passed_over
        ]
    order = {folder: place for place, folder in enumerate(folders)}
    taken.sort(key=lambda candidate: order[candidate.folder])
    listing.taken = list(zip(taken, _suffixes(taken), strict=True))
    return listing


def find_series_of_files(files: Sequence[Path], wanted: str | int | None = None) -> FoundSeries:
    """The series that single files are part of, each once, whatever else their folders hold.

    Localizers are taken only where nothing else was named, so that all files of a folder may be named.

    Args:
        files: DICOM files.
        wanted: what the series has to fit, see :func:`choose_series`.
    """
    listing = FoundSeries()
    listed: dict[Path, list[DicomSeries]] = {}
    named: dict[tuple[Path, str], tuple[Path, DicomSeries]] = {}
    for file in files:
        try:
            if file.parent not in listed:
                listed[file.parent] = list_series(file.parent)
            series = series_of_file(file, listed[file.parent])
            check_fits(series, wanted, file)
        except (ValueError, ImportError) as error:
            listing.failures.append((file, str(error)))
            continue
        named.setdefault((file.parent, series.uid), (file, series))
    others = any(not series.passed_over for _, series in named.values())
    taken = []
    for file, series in named.values():
        if series.no_image or (series.localizer and others):
            listing.skipped.append((file, f"{series}: {series.passed_over}"))
        else:
            taken.append(series)
    listing.taken = list(zip(taken, _suffixes(taken), strict=True))
    return listing


def _instead(taken: Sequence[DicomSeries]) -> str:
    if not taken:
        return ""
    return f"; taken of this study: {'; '.join(map(str, taken))} (--series names another)"


def _suffixes(series: Sequence[DicomSeries]) -> list[str]:
    """``_series-5`` where a folder gives several; with a running number where series share theirs."""
    of_folder = Counter(candidate.folder for candidate in series)
    named = Counter((candidate.folder, candidate.number) for candidate in series)
    seen: Counter[Path] = Counter()
    suffixes = []
    for candidate in series:
        seen[candidate.folder] += 1
        if of_folder[candidate.folder] == 1:
            suffixes.append("")
        elif candidate.number is not None and named[candidate.folder, candidate.number] == 1:
            suffixes.append(f"_series-{candidate.number}")
        else:
            number = "" if candidate.number is None else f"{candidate.number}-"
            suffixes.append(f"_series-{number}no{seen[candidate.folder]}")
    return suffixes
