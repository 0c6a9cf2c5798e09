"""Vertebral bodies without their posterior elements, by the anterior wall of the spinal canal."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy import ndimage

VERTEBRAE = range(2, 11)
EXTRAPOLATE_MM = 30.0


class NoCanalError(ValueError):
    """The mask has no spinal canal, so that bodies and arches cannot be told apart."""


def keep_bodies(label: np.ndarray, canal: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Sets the posterior elements of every vertebra to background.

    The canal's most anterior voxel at each height gives its anterior wall; beyond the canal's ends the wall goes on
    straight. Vertebra voxels at or behind that wall are posterior elements. Of what is left, each vertebra keeps its
    largest connected part.

    Args:
        label: label map in our codes, (X, Y, Z) uint8.
        canal: the spinal canal, (X, Y, Z) bool.
        affine: voxel indices to RAS+ mm; any orientation.

    Returns:
        A new label map; discs and sacrum are as before.

    Raises:
        NoCanalError: ``canal`` is empty.
    """
    if not canal.any():
        raise NoCanalError("no spinal canal (value 100); expected one, as it separates bodies from posterior elements")
    # Work in R, P, I order: axis 1 grows to posterior, axis 2 to inferior.
    to_rpi = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(("R", "P", "I"))
    )
    back = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(("R", "P", "I")), nib.orientations.io_orientation(affine)
    )
    turned = nib.orientations.apply_orientation(label, to_rpi).copy()
    wall = _anterior_wall(nib.orientations.apply_orientation(canal, to_rpi), _height_mm(affine, to_rpi))
    behind = np.arange(turned.shape[1])[:, None] >= wall[None, :]
    turned[np.isin(turned, VERTEBRAE) & behind[None]] = 0
    for code in VERTEBRAE:
        _keep_largest(turned, code)
    return np.ascontiguousarray(nib.orientations.apply_orientation(turned, back))


def _height_mm(affine: np.ndarray, to_rpi: np.ndarray) -> float:
    axis = int(np.flatnonzero(to_rpi[:, 0] == 2)[0])
    return float(np.linalg.norm(affine[:3, axis]))


def _anterior_wall(canal: np.ndarray, height_mm: float) -> np.ndarray:
    """Posterior index of the canal's anterior wall at each height, (Z,) float; canal is (R, P, I) bool."""
    profile = np.asarray(canal.any(0))
    rows = np.flatnonzero(profile.any(0))
    front = profile[:, rows].argmax(0).astype(float)
    # A stray voxel must not move the wall.
    front = ndimage.median_filter(front, size=max(1, round(5 / height_mm)) | 1, mode="nearest")
    heights = np.arange(canal.shape[2])
    wall: np.ndarray = np.interp(heights, rows, front)
    reach = max(2, round(EXTRAPOLATE_MM / height_mm))
    for end, outside in ((slice(None, reach), heights < rows[0]), (slice(-reach, None), heights > rows[-1])):
        if outside.any() and len(rows[end]) > 1:
            slope, offset = np.polyfit(rows[end], front[end], 1)
            wall[outside] = slope * heights[outside] + offset
    return wall


def _keep_largest(label: np.ndarray, code: int) -> None:
    inside = label == code
    parts, count = ndimage.label(inside)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        label[inside & (parts != sizes.argmax())] = 0
