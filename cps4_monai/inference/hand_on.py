"""Copies of a label map for other programs, beside it and on request: a DICOM SEG, and a segmentation for 3D Slicer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.label_file import structures_alone
from cps4_monai.data.label_ownership import GENERATOR, ForeignFileError
from cps4_monai.data.label_review import changed_by_a_person
from cps4_monai.inference.dicom import DicomSeries, list_series
from cps4_monai.inference.outcome import reason_of
from cps4_monai.inference.scan_files import ScanFiles, series_uid
from cps4_monai.inference.seg_nrrd import seg_nrrd_bytes
from cps4_monai.inference.sources import Source, Sources

logger = logging.getLogger(__name__)
# What this package and what the libraries raise about a label map or headers of which no copy can be made.
_NOT_MADE = (ValueError, TypeError, AttributeError, LookupError, NotImplementedError)
_HEAD = 2**16  # bytes in which a file of ours names this package: its manufacturer, or a field of the header


@dataclass(frozen=True)
class HandOn:
    """Which copies are asked for.

    Attributes:
        dicom_seg: a DICOM Segmentation object of each DICOM series; scans of other formats get none.
        seg_nrrd: a ``.seg.nrrd`` with names and colours of each scan.
    """

    dicom_seg: bool = False
    seg_nrrd: bool = False

    def check(self, sources: Sources) -> None:
        """Checks before any work that what is asked for can be made.

        Raises:
            MissingExtraError: a package that writes it is not installed.
            ValueError: a DICOM SEG without any DICOM series among the inputs.
        """
        from cps4_monai.extras import require

        if self.seg_nrrd:
            require("nrrd", "A .seg.nrrd")
        if self.dicom_seg:
            require("highdicom", "A DICOM SEG")
            if sources.scans and not any(source.kind == "dicom" for source in sources.scans):
                raise ValueError(
                    "dicom_seg: found no DICOM series among the inputs; expected one, as a DICOM SEG refers to the "
                    "images of its series. Fix: name the folder with the DICOM files, or leave --dicom-seg out"
                )

    def files(self, source: Source, files: ScanFiles) -> list[Path]:
        """Paths of the copies of a scan that are asked for."""
        dicom = [files.dicom_seg] if self.dicom_seg and source.kind == "dicom" else []
        return [*dicom, *([files.seg_nrrd] if self.seg_nrrd else [])]

    def check_files(self, source: Source, files: ScanFiles) -> None:
        """Checks that the copies of a scan may be written.

        Raises:
            ForeignFileError: a file that is not ours is there.
        """
        for path in self.files(source, files):
            check_copy(path)

    def write(
        self,
        source: Source,
        files: ScanFiles,
        labels: np.ndarray,
        affine: np.ndarray,
        anatomy: Anatomy,
        record: Mapping[str, Any],
        *,
        anew: bool = False,
    ) -> str:
        """Writes the copies of a scan's label map that can be made; an empty label map has none.

        Args:
            source: the scan.
            files: its output files.
            labels: (X, Y, Z) uint8 codes; what nobody annotated (255) is no structure.
            affine: 4 x 4, voxel indices to RAS+ mm.
            anatomy: the classes.
            record: of the label map; its ``Weights`` are named in a SEG.
            anew: the label map is another one than before: copies of ours that were not asked for follow, too, and
                what cannot be made again is taken away.

        Returns:
            Which copy cannot be made of this scan, and why: the label map is good without it. Empty where all are made.

        Raises:
            ForeignFileError: a file that is not ours is there.
            OSError: the folder cannot be written to.
        """
        lacking = []
        self.check_files(source, files)
        asked = self.files(source, files)
        for path in [*asked, *(_left_behind(files, asked) if anew else [])]:
            not_made = _NOT_MADE if path in asked else (*_NOT_MADE, ImportError)
            try:
                content = _copy(path, files, labels, affine, anatomy, record, source.series)
            except not_made as error:
                logger.debug("%s cannot be made", path, exc_info=error)
                lacking.append(f"no {path.name}: {reason_of(error)}")
                if anew:
                    write_copies({path: None})
            else:
                write_copies({path: content})
        return "; ".join(lacking)


def _left_behind(files: ScanFiles, asked: Sequence[Path]) -> list[Path]:
    """Copies of ours that are there and were not asked for."""
    there = [path for path in (files.dicom_seg, files.seg_nrrd) if path.exists() and path not in asked]
    return [path for path in there if _is_ours(path)]


def copies_again(
    files: ScanFiles, labels: np.ndarray, affine: np.ndarray, anatomy: Anatomy, record: Mapping[str, Any]
) -> dict[Path, bytes | None]:
    """Contents of the copies that are there, for a label map that was corrected; nothing is written.

    Args:
        files: of the scan.
        labels: (X, Y, Z) uint8 codes, corrected; what nobody annotated (255) is no structure.
        affine: 4 x 4, voxel indices to RAS+ mm.
        anatomy: the classes.
        record: what the sidecar says; it names the DICOM series that a SEG refers to.

    Returns:
        By path; None where the label map is empty, so that there is no copy of it.

    Raises:
        ForeignFileError: a file of that name is not ours.
        ValueError: the DICOM series is not there any more, or a copy cannot be made of it.
    """
    there = [path for path in (files.dicom_seg, files.seg_nrrd) if path.exists()]
    for path in there:
        check_copy(path)
    series = _series_of(files, record) if files.dicom_seg in there else None
    return {path: _copy(path, files, labels, affine, anatomy, record, series) for path in there}


def copies_follow(
    files: ScanFiles, labels: np.ndarray, affine: np.ndarray, anatomy: Anatomy, record: Mapping[str, Any]
) -> None:
    """Makes the copies of ours that are there again, for a label map that is about to be replaced.

    One that cannot be made again is taken away, with a warning: it would show other labels. Arguments as for
    :func:`copies_again`.
    """
    for path in _left_behind(files, ()):
        content = None
        try:
            series = _series_of(files, record) if path == files.dicom_seg else None
            content = _copy(path, files, labels, affine, anatomy, record, series)
        except (*_NOT_MADE, ImportError) as error:
            logger.warning("%s: of the labels before, and taken away: %s", path, reason_of(error))
        write_copies({path: content})


def write_copies(contents: Mapping[Path, bytes | None]) -> None:
    """Writes copies, each whole or not at all, and takes away those that there are none of any more."""
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, content, shared=True)


def _copy(
    path: Path,
    files: ScanFiles,
    labels: np.ndarray,
    affine: np.ndarray,
    anatomy: Anatomy,
    record: Mapping[str, Any],
    series: DicomSeries | None,
) -> bytes | None:
    labels = structures_alone(labels)
    if path == files.seg_nrrd:
        return seg_nrrd_bytes(labels, affine, anatomy)
    from cps4_monai.inference.dicom.segmentation_object import segmentation_object

    if series is None:
        raise ValueError(
            f"{path}: found no DICOM series of its scan; expected one, as a DICOM SEG refers to its images"
        )
    return segmentation_object(labels, series, anatomy, record["Weights"], by_a_person=changed_by_a_person(record))


def _series_of(files: ScanFiles, record: Mapping[str, Any]) -> DicomSeries:
    """The series that the sidecar names, for a SEG made again."""
    folder = Path((record.get("Sources") or [""])[0])
    uid = series_uid(record)
    for series in list_series(folder) if folder.is_dir() else []:
        if series.uid == uid:
            return series
    raise ValueError(
        f"{files.dicom_seg}: has to follow the label map, but its series {uid} is not in {folder}; expected the folder "
        "that was segmented. Fix: put the series back there, or take this file away and make it again later with "
        "--dicom-seg"
    )


def check_copy(path: Path) -> None:
    """Checks that a copy may be written to a path.

    Raises:
        ForeignFileError: a file is there that does not name this package at its beginning.
    """
    if path.exists() and not _is_ours(path):
        raise ForeignFileError.at(path)


def _is_ours(path: Path) -> bool:
    with open(path, "rb") as file:
        return GENERATOR.encode() in file.read(_HEAD)
