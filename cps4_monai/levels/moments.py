"""Sizes and places of numbered regions of a volume, from sums over their voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Voxel count, centroid and in-plane spread of the regions 1 to N of an id volume; row i is region i + 1.

    Attributes:
        voxels: (N,) voxel counts.
        centroid_mm: (N, 3) centroids along (D, H, W), in mm from the centre of voxel (0, 0, 0); NaN where empty.
        covariance_mm2: (N, 2, 2) covariance over (H, W), in square mm, the extent of a voxel included: a slab
            of uniform thickness t has variance t^2 / 12 across it.
        spacing_mm: (slice, H, W).
    """

    voxels: np.ndarray
    centroid_mm: np.ndarray
    covariance_mm2: np.ndarray
    spacing_mm: tuple[float, float, float]

    @property
    def volume_mm3(self) -> np.ndarray:
        """(N,) volumes in cubic mm."""
        return self.voxels * float(np.prod(self.spacing_mm))


def measure(
    ids: np.ndarray, count: int, spacing_mm: tuple[float, float, float], origin: tuple[int, int, int] = (0, 0, 0)
) -> Moments:
    """Moments of the regions 1 to ``count`` of an id volume, in a few passes over its foreground.

    Args:
        ids: (D, H, W) integers, 0 for no region.
        count: number of regions N.
        spacing_mm: (slice, H, W).
        origin: index of ``ids[0, 0, 0]`` in the whole volume.
    """
    flat = np.flatnonzero(ids)
    region = ids.reshape(-1)[flat] - 1
    voxels = np.bincount(region, minlength=count).astype(np.int64)
    axes = [index * step for index, step in zip(np.unravel_index(flat, ids.shape), spacing_mm, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.stack([np.bincount(region, weights=axis, minlength=count) / voxels for axis in axes], axis=-1)
        centred = [axis - mean[region, k] for k, axis in enumerate(axes)]
        covariance = np.empty((count, 2, 2))
        for i, j in ((1, 1), (1, 2), (2, 2)):
            term = np.bincount(region, weights=centred[i] * centred[j], minlength=count) / voxels
            covariance[:, i - 1, j - 1] = covariance[:, j - 1, i - 1] = term
    covariance[:, 0, 0] += spacing_mm[1] ** 2 / 12.0
    covariance[:, 1, 1] += spacing_mm[2] ** 2 / 12.0
    return Moments(voxels, mean + np.multiply(origin, spacing_mm), covariance, spacing_mm)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Smallest value at which half of the weight is reached; NaN for no values."""
    if len(values) == 0:
        return float("nan")
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, 0.5 * reached[-1])])
