"""Sagittal slices of a volume of any orientation, by flips and axis permutation only, and the exact way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from cps4_monai.data.geometry import spacing_of

SLICE_CODES = ("R", "I", "P")
THICK_SLICE_RATIO = 1.25
_AXIS_NAMES = ("left-right", "superior-inferior", "anterior-posterior")


@dataclass(frozen=True)
class SagittalGrid:
    """How the voxel axes of a scan lie in (D, H0, W0): left to right, superior to inferior, anterior to posterior.

    >>> import numpy as np
    >>> grid = SagittalGrid.from_affine((15, 512, 400), np.diag([4.0, 0.6, 0.7, 1.0]))  # a scan in RAS
    >>> grid.slices_shape, grid.spacing_mm
    ((15, 400, 512), (4.0, 0.7, 0.6))
    >>> volume = np.zeros(grid.shape)
    >>> grid.from_slices(grid.to_slices(volume)).shape
    (15, 512, 400)

    Attributes:
        axes: for D, H and W, the voxel axis that runs along it most closely.
        flips: for D, H and W, whether that axis runs the other way.
        shape: voxels of the scan, (X, Y, Z).
        spacing_mm: spacing along D, H and W.
        warnings: one sentence where the scan does not look like a sagittal acquisition.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_affine(cls, shape: Sequence[int], affine: np.ndarray) -> SagittalGrid:
        """The grid of a scan.

        Args:
            shape: voxels along X, Y and Z.
            affine: 4 x 4, voxel indices to RAS+ mm; oblique ones take the closest axes.

        Raises:
            ValueError: not three axes, or an affine in which an axis has no direction.
        """
        if len(shape) != 3:
            raise ValueError(f"shape is {tuple(shape)}; expected three numbers (X, Y, Z)")
        affine = np.asarray(affine, dtype=np.float64)
        orientation = io_orientation(affine)
        if np.isnan(orientation).any():
            raise ValueError(f"affine {affine.tolist()} is singular; expected three independent axes")
        # Row i says where voxel axis i goes; both are turned round to say where each of D, H, W comes from.
        transform = ornt_transform(orientation, axcodes2ornt(SLICE_CODES))
        axes = [int(np.flatnonzero(transform[:, 0] == target)[0]) for target in range(3)]
        d, h, w = axes
        flip_d, flip_h, flip_w = (bool(transform[axis, 1] < 0) for axis in axes)
        spacing = spacing_of(affine)
        x, y, z = (int(n) for n in shape)
        by_slice_axis = (spacing[d], spacing[h], spacing[w])
        counts = (int(shape[d]), int(shape[h]), int(shape[w]))
        return cls((d, h, w), (flip_d, flip_h, flip_w), (x, y, z), by_slice_axis, _unusual(by_slice_axis, counts))

    @property
    def slices_shape(self) -> tuple[int, int, int]:
        """(D, H0, W0)."""
        d, h, w = self.axes
        return self.shape[d], self.shape[h], self.shape[w]

    def to_slices(self, volume: np.ndarray) -> np.ndarray:
        """(X, Y, Z) to (D, H0, W0), a view.

        Raises:
            ValueError: another shape than the scan's.
        """
        if volume.shape != self.shape:
            raise ValueError(f"volume has shape {volume.shape}; expected {self.shape}, the shape of the scan")
        return self._flip(volume.transpose(self.axes))

    def from_slices(self, slices: np.ndarray) -> np.ndarray:
        """(D, H0, W0) to (X, Y, Z), a view: the exact inverse of :meth:`to_slices`.

        Raises:
            ValueError: another shape than that of the scan's slices.
        """
        if slices.shape != self.slices_shape:
            raise ValueError(f"slices have shape {slices.shape}; expected {self.slices_shape} (D, H0, W0)")
        volume: np.ndarray = self._flip(slices).transpose(np.argsort(self.axes))
        return volume

    def slices_affine(self, affine: np.ndarray) -> np.ndarray:
        """The scan's affine, rewritten for indices (D, H0, W0)."""
        new = np.eye(4)
        new[:, 3] = affine[:, 3]
        for target, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            new[:3, target] = -affine[:3, axis] if flip else affine[:3, axis]
            if flip:
                new[:3, 3] += affine[:3, axis] * (self.shape[axis] - 1)
        return new

    def _flip(self, slices: np.ndarray) -> np.ndarray:
        # Not an axis of one slice: reversed, it counts as contiguous and yet has a stride that torch refuses.
        reverse = [flip and count > 1 for flip, count in zip(self.flips, slices.shape, strict=True)]
        return slices[tuple(slice(None, None, -1) if flip else slice(None) for flip in reverse)]


def _unusual(spacing_mm: tuple[float, float, float], counts: tuple[int, int, int]) -> tuple[str, ...]:
    thickest = int(np.argmax(spacing_mm))
    others = max(s for i, s in enumerate(spacing_mm) if i != thickest)
    if thickest == 0 or spacing_mm[thickest] <= THICK_SLICE_RATIO * others:
        single = [i for i in (1, 2) if counts[i] == 1]
        if not single:
            return ()
        thickest = single[0]
    return (
        f"the slice axis is {_AXIS_NAMES[thickest]} (spacing {spacing_mm[thickest]:g} mm), not left-right: no sagittal "
        "acquisition; sliced sagittally all the same",
    )
