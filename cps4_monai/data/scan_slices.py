"""From a scan of any orientation to the network's slices: the one way for training, MONAI's transforms and inference.

The way back is in :mod:`cps4_monai.data.scan_labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cps4_monai.data.geometry import MAX_FIELD_MM
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.data.normalise import percentile_window, scale_to_window
from cps4_monai.data.sagittal import SagittalGrid

MIN_FIELD_MM = 50.0  # two vertebrae


@dataclass(frozen=True)
class ScanSlices:
    """A scan on the network's grid.

    Attributes:
        slices: (D, H, W) float32 in [0, 1], the network's input.
        grid: how the scan's axes lie in the slices.
        warnings: what looks unusual about slice axis and field of view.
        grey: (X, Y, Z) uint8 grey values for pictures; None where none was asked for.
    """

    slices: torch.Tensor
    grid: SagittalGrid
    warnings: tuple[str, ...]
    grey: np.ndarray | None = None


def scan_to_slices(
    array: np.ndarray,
    affine: np.ndarray,
    in_plane: InPlane,
    percentiles: tuple[float, float] = (0.5, 99.5),
    *,
    path: str | Path,
    keep_grey: bool = False,
) -> ScanSlices:
    """Normalises a scan by its percentiles and resamples it, slice by slice, onto the network's grid.

    Slice by slice, because each whole-volume step would need the memory of a float volume.

    Args:
        array: (X, Y, Z) finite intensities.
        affine: 4 x 4, voxel indices to RAS+ mm.
        in_plane: the network's slice geometry.
        percentiles: of the volume, that become 0 and 1.
        path: the scan, for messages.
        keep_grey: keep grey values on the scan's own grid, for pictures.

    Raises:
        InvalidVolumeError: a field of view above two metres, which is a wrong spacing and would fill any memory.
    """
    grid = SagittalGrid.from_affine(array.shape, affine)
    warnings = (*grid.warnings, *_check_field(grid, path))
    source, window = grid.to_slices(array), percentile_window(array, *percentiles)
    grey = np.empty(array.shape, dtype=np.uint8) if keep_grey else None
    grey_slices = None if grey is None else grid.to_slices(grey)  # a view
    made: list[torch.Tensor] = []
    for index in range(len(source)):
        scaled = scale_to_window(source[index : index + 1], window)
        made.append(in_plane.image(scaled, grid.spacing_mm[1:])[0])
        if grey_slices is not None:
            grey_slices[index] = scaled[0] * 255.0
    return ScanSlices(torch.stack(made), grid, warnings, grey)


def label_to_slices(array: np.ndarray, grid: SagittalGrid, in_plane: InPlane) -> torch.Tensor:
    """A label map (X, Y, Z) on a scan's grid to (D, H, W) on the network's, type kept; see :meth:`InPlane.label`."""
    return in_plane.label(grid.to_slices(array), grid.spacing_mm[1:])


def network_spacing_mm(grid: SagittalGrid, in_plane: InPlane) -> tuple[float, float, float]:
    """Spacing of the network's slices of a scan along D, H and W."""
    return (grid.spacing_mm[0], *in_plane.network_spacing_mm(grid.slices_shape[1:], grid.spacing_mm[1:]))


def _check_field(grid: SagittalGrid, path: str | Path) -> Sequence[str]:
    """A warning about a field of view that shows no two vertebrae; one of more than two metres is an error."""
    depth, height, width = (n * mm for n, mm in zip(grid.slices_shape, grid.spacing_mm, strict=True))
    by_axis = dict(zip(grid.axes, grid.spacing_mm, strict=True))
    spacing = " x ".join(f"{by_axis[axis]:g}" for axis in range(3))
    if max(depth, height, width) > MAX_FIELD_MM:
        raise InvalidVolumeError(
            path,
            f"a field of view of {max(depth, height, width):.0f} mm",
            f"at most {MAX_FIELD_MM:.0f} mm",
            f"correct the spacing in the header, {spacing}, which is to be in millimetres",
        )
    if max(height, width) >= MIN_FIELD_MM:
        return ()
    return (f"a field of view of {height:.3g} x {width:.3g} mm in plane: is the spacing, {spacing}, in millimetres?",)
