"""A scan's output files: where they go, whether they are there already, and writing them whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cps4_monai.data.label_file import label_bytes
from cps4_monai.data.label_ownership import (
    EditedLabelError,
    ForeignFileError,
    check_may_write,
    is_described,
    owned_label,
    record_beside,
    sidecar_of,
)
from cps4_monai.data.label_review import review_in_words
from cps4_monai.data.owned_picture import check_picture, write_picture
from cps4_monai.encoding import readable
from cps4_monai.inference.segmentation import Segmentation
from cps4_monai.levels.flags import ALARM, of_kind

ORIGINAL_PREFIX = ".original-"
_HOW_TO_REPLACE = "--overwrite does not replace a person's work: delete the label map to have it made anew"
_HOW_TO_ACCEPT = "'cps4 relabel LABELMAP --accept' takes it over as a person's"


@dataclass(frozen=True)
class ScanFiles:
    """Paths of a scan's label map, its JSON and its picture."""

    label: Path
    sidecar: Path
    picture: Path

    @classmethod
    def at(cls, output: str | Path, name: str) -> ScanFiles:
        """Files of the scan ``name`` (``subfolder/stem``) below the output folder."""
        label = Path(output) / f"{name}_dseg.nii.gz"
        return cls(label, sidecar_of(label), label.with_name(f"{Path(name).name}_qc.png"))

    @classmethod
    def beside(cls, label: Path) -> ScanFiles:
        """Files of the scan that a label map is of."""
        return cls.at(label.parent, label.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_dseg"))

    @property
    def dicom_seg(self) -> Path:
        """Its DICOM Segmentation object, where one was asked for."""
        return self.label.with_name(f"{self._stem}_seg.dcm")

    @property
    def seg_nrrd(self) -> Path:
        """Its segmentation for 3D Slicer, likewise."""
        return self.label.with_name(f"{self._stem}.seg.nrrd")

    @property
    def _stem(self) -> str:
        return self.picture.name.removesuffix("_qc.png")

    @property
    def record(self) -> dict[str, Any]:
        """What the sidecar says; empty where there is none of ours."""
        return record_beside(self.label)


class Finished(NamedTuple):
    """A label map that is there and stays.

    Attributes:
        record: what its sidecar says; of the labels before, where it was edited.
        note: why it stays though it was to be replaced, or is not what this run would make; "" elsewhere.
        edited: it was changed since it was segmented.
    """

    record: dict[str, Any]
    note: str
    edited: bool


def series_uid(sidecar: Mapping[str, Any]) -> str | None:
    """The series of a DICOM folder that a label map was made of."""
    series = sidecar.get("Series")
    return series.get("InstanceUID") if isinstance(series, dict) else None


def finished(
    files: ScanFiles,
    source: Path,
    key_of: Callable[[], str],
    settings: Mapping[str, Any],
    *,
    series: str | None = None,
    overwrite: bool = False,
) -> Finished | None:
    """A label map of ours that is there and stays.

    One that a person corrected, accepted, marked or edited stays even where it is to be replaced.

    Args:
        files: of the scan.
        source: the scan, asked for where the JSON has no SHA-256 of it.
        key_of: gives the SHA-256 of the scan; asked where the label map may stay, since it reads the scan.
        settings: of this run, see :attr:`Segmenter.settings`.
        series: UID of the series, of a DICOM folder that may hold several.
        overwrite: it is to be replaced.

    Returns:
        None: it is still to be made, as well where a kill left an older label map than its sidecar describes.

    Raises:
        ForeignFileError: a file that is not ours is there, the label map of another scan, or half of a correction.
    """
    record = files.record
    try:
        there = check_may_write(files.label)
    except EditedLabelError:
        if not _is_of(record, source, key_of):
            raise
        check_picture(files.picture)
        return Finished(record, f"kept: edited since it was segmented ({_HOW_TO_ACCEPT}); {_HOW_TO_REPLACE}", True)
    check_picture(files.picture)
    if not there:
        return None
    reviewed = _reviewed(files, record)
    if not is_described(files.label) or (overwrite and not reviewed):
        return None
    if not _is_of(record, source, key_of):
        raise ForeignFileError(f"{files.label}: {_whose(record, source, series, reviewed)}")
    return Finished(record, _note(reviewed, overwrite, same=record.get("Settings") == dict(settings)), False)


def _is_of(record: Mapping[str, Any], source: Path, key_of: Callable[[], str]) -> bool:
    """Whether a label map was made of a scan: by its content, or by its place where the content was not noted."""
    if "SourceSha256" in record:
        return bool(record["SourceSha256"] == key_of())
    return _is_at(record, source)


def _is_at(record: Mapping[str, Any], source: Path) -> bool:
    return os.path.realpath(source) in [os.path.realpath(name) for name in record.get("Sources", [])]


def _is_of_place(record: Mapping[str, Any], source: Path, series: str | None) -> bool:
    """Whether a label map was made of what lies there, or lay there before it was changed."""
    return _is_at(record, source) and series_uid(record) == series


def _whose(record: Mapping[str, Any], source: Path, series: str | None, reviewed: str) -> str:
    """What a label map of ours is of that is not of this scan, and the way out: another scan's is not to be lost."""
    if not _is_of_place(record, source, series):
        made_of = series_uid(record)
        number = "" if made_of is None else f", series {record['Series'].get('Number') or made_of}"
        scan = ", ".join(record.get("Sources", [])) + number
        return f"holds the label map of another scan ({scan}). Fix: choose another output folder for this one"
    way_out = f"delete it ({reviewed})" if reviewed else "replace it with --overwrite (overwrite=True)"
    return (
        f"holds the label map of another scan, or of this one before it was changed ({source}). Fix: choose another "
        f"output folder, or {way_out}"
    )


def _reviewed(files: ScanFiles, record: Mapping[str, Any]) -> str:
    """What a person said of the label map that is there, in words; "" where nobody did.

    Raises:
        ForeignFileError: the label map is not the one that was reviewed.
    """
    reviewed = review_in_words(record)
    if reviewed and not is_described(files.label):
        raise ForeignFileError(
            f"{files.label}: found half of a correction, which was interrupted before the label map; expected one that "
            "its JSON describes. Fix: take it back with 'cps4 relabel --undo' and correct it again"
        )
    return reviewed


def _note(reviewed: str, overwrite: bool, same: bool) -> str:
    """Why a label map is kept that a new one would differ from, or that was to be replaced."""
    other = "" if same else ", though made with other weights or settings"
    if reviewed and (overwrite or other):
        return f"kept{other}: {reviewed}; {_HOW_TO_REPLACE}"
    return other and f"kept{other}; --overwrite replaces it"


def replaced(files: ScanFiles, record: Mapping[str, Any]) -> str:
    """What is told where a new label map, with this record, takes the place of another scan's; "" elsewhere."""
    before = files.record
    if not before.get("Sources") or before.get("SourceSha256") == record["SourceSha256"]:
        return ""
    if any(_is_of_place(before, Path(source), series_uid(record)) for source in record["Sources"]):
        return ""
    others = ["/".join(Path(path).parts[-2:]) for path in before["Sources"]]  # reports name no folders of the machine
    return f"replaced, by --overwrite: the label map of another scan ({', '.join(others)})"


def check_replaceable(files: ScanFiles, overwrite: bool) -> None:
    """Checks that the files of a scan may be written.

    Raises:
        ForeignFileError: as :func:`write_segmentation`.
    """
    there = check_may_write(files.label)
    reviewed = _reviewed(files, files.record) if there else ""
    if reviewed:
        raise ForeignFileError(f"{files.label}: was {reviewed}; {_HOW_TO_REPLACE}")
    if there and is_described(files.label) and not overwrite:
        raise ForeignFileError(f"{files.label}: is there already; --overwrite (overwrite=True) replaces it")


def write_segmentation(
    result: Segmentation,
    files: ScanFiles,
    *,
    overwrite: bool = False,
    qc: bool = True,
    copies: Callable[[], str] | None = None,
) -> str:
    """Writes the files of a scan, the label map last: where it is the one that its JSON describes, they all are there.

    The time taken is added to the record. What was kept for ``cps4 relabel --undo`` of an earlier label map goes.

    Args:
        result: what is written.
        files: of the scan.
        overwrite: replace a label map of ours.
        qc: draw the picture.
        copies: writes the copies for other programs, and says which cannot be made.

    Returns:
        What ``copies`` said; "" without.

    Raises:
        ForeignFileError: see :func:`finished`; also where a label map of ours is there, without ``overwrite``, or one
            that a person corrected, accepted or marked.
        OSError: the folder cannot be written to.
    """
    check_replaceable(files, overwrite)
    check_picture(files.picture)
    started = time.perf_counter()
    content = label_bytes(files.label.name, result.labels, result.header)
    seconds = result.record["Seconds"]
    seconds["write"] = time.perf_counter() - started
    picture = None
    if qc:
        started = time.perf_counter()
        picture = result.qc_picture()
        seconds["picture"] = time.perf_counter() - started
    _remove_original(files)
    with owned_label(files.label, content, result.record):
        if picture is not None:
            write_picture(files.picture, picture)
        else:
            files.picture.unlink(missing_ok=True)  # it shows other labels
        return "" if copies is None else copies()


def original_of(path: Path) -> Path:
    """Where a label map from before its first correction is kept, or its sidecar: hidden, beside it."""
    return path.with_name(f"{ORIGINAL_PREFIX}{path.name}")


def _remove_original(files: ScanFiles) -> None:
    """Takes away the original of an earlier label map; one that was edited by hand is no file of ours and stays."""
    if is_described(original_of(files.label)):
        for path in (files.label, files.sidecar):
            original_of(path).unlink()


def draw_again(files: ScanFiles, grey: np.ndarray, labels: np.ndarray, affine: np.ndarray, anatomy: Any) -> None:
    """The picture of a label map that is there, with the alarms of its record."""
    from cps4_monai.report.pictures import sagittal_mosaic

    alarms = of_kind(ALARM, (flag["name"] for flag in files.record.get("Flags", [])))
    title = readable(files.picture.name.removesuffix("_qc.png"))
    write_picture(files.picture, sagittal_mosaic(grey, labels, affine, anatomy, title=title, alarms=alarms))
