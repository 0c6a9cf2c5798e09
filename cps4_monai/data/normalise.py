"""Robust intensity normalisation by volume percentiles."""

from __future__ import annotations

import numpy as np


def percentile_window(array: np.ndarray, lower: float = 0.5, upper: float = 99.5) -> tuple[float, float]:
    """The intensities of a volume that become 0 and 1: two percentiles; equal for a constant volume.

    Where the percentiles coincide (a volume that is nearly all background), minimum and maximum take their place.

    Args:
        array: finite numbers of any type and shape, one volume.
        lower: percentile that becomes 0, in 0 to 100.
        upper: percentile that becomes 1, in 0 to 100, above ``lower``.

    Raises:
        ValueError: percentiles out of order or range, or an empty array.
    """
    if not 0 <= lower < upper <= 100:
        raise ValueError(f"percentiles are {lower} and {upper}; expected 0 <= lower < upper <= 100")
    array = np.asarray(array)
    if array.size == 0:
        raise ValueError(f"array has shape {array.shape}; expected at least one voxel")
    low, high = (float(v) for v in np.percentile(array, (lower, upper)))
    if not high > low:
        low, high = float(array.min()), float(array.max())
    return low, high


def scale_to_window(array: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """A volume, or slices of it, with the window's ends at 0 and 1, clipped, float32; zeros for an empty window."""
    low, high = window
    if not high > low:
        return np.zeros(array.shape, dtype=np.float32)
    working: np.ndarray = array.astype(np.float32 if array.dtype != np.float64 else np.float64)
    # Halving first keeps the difference of huge values finite.
    scaled = (np.multiply(working, 0.5) - low * 0.5) / (high * 0.5 - low * 0.5)
    clipped: np.ndarray = np.clip(scaled, 0.0, 1.0)
    return clipped.astype(np.float32, copy=False)
