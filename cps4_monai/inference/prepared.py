"""A scan read, checked and cut into the network's slices; what the way back needs travels along."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch

from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.scan_slices import scan_to_slices
from cps4_monai.data.volume import Volume, read_volume
from cps4_monai.file_hash import file_sha256

if TYPE_CHECKING:
    from cps4_monai.inference.dicom import DicomSeries


@dataclass(frozen=True)
class PreparedScan:
    """A scan on the network's grid.

    Attributes:
        path: where it came from.
        header: its header, for the label map.
        affine: 4 x 4, its voxels to RAS+ mm.
        grid: how its axes lie in the slices.
        content_key: SHA-256 of its file.
        warnings: what was corrected or looks unusual.
        slices: (D, H, W) float32 in [0, 1], the network's input.
        grey: (X, Y, Z) uint8 grey values for pictures; None where none was asked for.
        seconds: time taken by each part.
        provenance: see :class:`Volume`.
    """

    path: Path
    header: nib.Nifti1Header
    affine: np.ndarray
    grid: SagittalGrid
    content_key: str
    warnings: tuple[str, ...]
    slices: torch.Tensor
    grey: np.ndarray | None
    seconds: dict[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def load_scan(
    path: str | Path,
    assume_spacing: Sequence[float] | float | None = None,
    series: str | int | DicomSeries | None = None,
) -> Volume:
    """A scan from a NIfTI file, or from a DICOM series: its folder, or a file of it.

    Args:
        path: the file or the folder.
        assume_spacing: mm along X, Y and Z, or one number, for headers without a usable one.
        series: of DICOM, see :func:`cps4_monai.inference.dicom.read_dicom`.

    Raises:
        InvalidVolumeError: it cannot be used.
        MissingExtraError: DICOM without the extra that reads it.
    """
    spacing = [float(assume_spacing)] if isinstance(assume_spacing, int | float) else assume_spacing
    if _is_dicom(path):
        from cps4_monai.inference.dicom import read_dicom

        return read_dicom(path, spacing, series)
    return read_volume(path, assume_spacing=spacing)


def source_key(path: str | Path, series: str | int | DicomSeries | None = None) -> str:
    """SHA-256 of a scan's file, or of the files of its DICOM series: the ``content_key`` without reading the volume.

    Raises:
        OSError: not readable.
    """
    if _is_dicom(path):
        from cps4_monai.inference.dicom import series_key

        return series_key(path, series)
    return file_sha256(path)


def _is_dicom(path: str | Path) -> bool:
    from cps4_monai.inference.dicom import is_dicom_file

    return Path(path).is_dir() or is_dicom_file(path)


def prepare_scan(
    volume: Volume, in_plane: InPlane, percentiles: tuple[float, float] = (0.5, 99.5), *, keep_grey: bool = True
) -> PreparedScan:
    """:func:`cps4_monai.data.scan_slices.scan_to_slices` of a volume, timed.

    Args:
        volume: the scan.
        in_plane: the network's slice geometry.
        percentiles: of the volume, that become 0 and 1.
        keep_grey: keep grey values on the scan's own grid, for pictures.

    Raises:
        InvalidVolumeError: a field of view above two metres, which is a wrong spacing and would fill any memory.
    """
    started = time.perf_counter()
    scan = scan_to_slices(volume.array, volume.affine, in_plane, percentiles, path=volume.path, keep_grey=keep_grey)
    return PreparedScan(
        path=volume.path,
        header=volume.header,
        affine=volume.affine,
        grid=scan.grid,
        content_key=volume.content_key,
        warnings=(*volume.warnings, *scan.warnings),
        slices=scan.slices,
        grey=scan.grey,
        seconds={"prepare": time.perf_counter() - started},
        provenance=volume.provenance,
    )


def read_and_prepare(
    path: str | Path,
    in_plane: InPlane,
    percentiles: tuple[float, float] = (0.5, 99.5),
    *,
    assume_spacing: Sequence[float] | float | None = None,
    keep_grey: bool = True,
    series: str | int | DicomSeries | None = None,
) -> PreparedScan:
    """:func:`load_scan` and :func:`prepare_scan`, timed."""
    started = time.perf_counter()
    volume = load_scan(path, assume_spacing, series)
    read = time.perf_counter() - started
    scan = prepare_scan(volume, in_plane, percentiles, keep_grey=keep_grey)
    return replace(scan, seconds={"read": read, **scan.seconds})
