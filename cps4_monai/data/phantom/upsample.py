"""Separable linear and smooth interpolation of coarse maps by matrix products: fast, and without a heavy import."""

from __future__ import annotations

import numpy as np


def linear_weights(fine: int, coarse: int) -> np.ndarray:
    """(fine, coarse) float32 matrix of linear interpolation, both ends aligned."""
    position = np.linspace(0, coarse - 1, fine, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(coarse, dtype=np.float32)))


def smooth_weights(fine: int, coarse: int) -> np.ndarray:
    """(fine, coarse) float32 matrix of cubic B-spline weights, both ends aligned."""
    position = np.linspace(0, coarse - 1, fine, dtype=np.float32)
    d = np.abs(position[:, None] - np.arange(coarse, dtype=np.float32))
    near = 2 / 3 - d**2 + d**3 / 2
    far = np.maximum(2 - d, 0) ** 3 / 6
    weights = np.where(d < 1, near, far)
    return weights / weights.sum(1, keepdims=True)


def upsample(coarse: np.ndarray, size: tuple[int, int], smooth: bool = False) -> np.ndarray:
    """Interpolates the last two axes to ``size``; float32."""
    weights = smooth_weights if smooth else linear_weights
    rows, cols = weights(size[0], coarse.shape[-2]), weights(size[1], coarse.shape[-1])
    return rows @ coarse.astype(np.float32) @ cols.T


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """Smooth random maps of about unit variance: normal noise of ``shape``, its last two axes grown to ``size``."""
    noise = upsample(rng.standard_normal(shape, dtype=np.float32), size, smooth=True)
    return noise / max(float(noise.std()), 1e-6)
