"""The curve through the vertebral bodies in the sagittal plane, and the coordinates along and across it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cps4_monai.data.phantom.spine import Spine
from cps4_monai.data.phantom.upsample import upsample

STEP_MM = 0.25


@dataclass(frozen=True)
class Centreline:
    """Points every ``STEP_MM`` along the spine, from the tip of the coccyx upwards.

    Attributes:
        s: arc length in mm, 0 at the top of the sacrum, (P,).
        points: (P, 2) in mm: downwards (to inferior), backwards (to posterior); the origin is where s = 0.
        up: unit tangent at each point, pointing up along the spine, (P, 2).
        posterior: unit normal at each point, pointing backwards, (P, 2).
    """

    s: np.ndarray
    points: np.ndarray
    up: np.ndarray
    posterior: np.ndarray

    def at(self, s: float) -> np.ndarray:
        """Point (downwards, backwards) at an arc length."""
        return self.points[int(np.clip(np.searchsorted(self.s, s), 0, len(self.s) - 1))]

    def coordinates(self, down_mm: np.ndarray, back_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arc length s and distance n of every pixel of a grid, (H, W) float32 each, in mm.

        The nearest point of the curve is searched on a grid of about 1.3 mm, where s and n are all but linear, and
        interpolated from there.

        Args:
            down_mm: position of the rows, (H,), equally spaced.
            back_mm: position of the columns, (W,), equally spaced.
        """
        rows, cols = _coarse(down_mm), _coarse(back_mm)
        grid = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1)
        nearest = cKDTree(self.points).query(grid.reshape(-1, 2), eps=0.0)[1].reshape(grid.shape[:2])
        offset = grid - self.points[nearest]
        s = self.s[nearest] + (offset * self.up[nearest]).sum(-1)
        n = (offset * self.posterior[nearest]).sum(-1)
        size = (len(down_mm), len(back_mm))
        return upsample(s, size), upsample(n, size)


def _coarse(positions: np.ndarray, spacing_mm: float = 1.3) -> np.ndarray:
    count = min(len(positions), max(2, int(np.ceil((positions[-1] - positions[0]) / spacing_mm)) + 1))
    return np.linspace(positions[0], positions[-1], count)


def trace_centreline(spine: Spine, tilt: float = 0.0) -> Centreline:
    """Integrates the angles of vertebrae, discs and sacrum along the spine.

    Args:
        spine: the subject's sizes and angles.
        tilt: lean of the whole spine in radians, positive to anterior.
    """
    lengths = np.stack([spine.disc_height, spine.height], 1).ravel()
    angles = np.stack([spine.disc_angle, spine.vertebra_angle], 1).ravel()
    knots = np.concatenate([spine.sacrum_ends[::-1], [0.0], np.cumsum(lengths)])
    top = spine.sacral_slope + tilt
    below = top - np.cumsum(spine.sacrum_angle)
    lean = np.concatenate([below[::-1], [top], top - np.cumsum(angles)])

    s = np.arange(knots[0], knots[-1], STEP_MM)
    theta = np.interp(s, knots, lean)
    up = np.stack([-np.cos(theta), -np.sin(theta)], 1)
    posterior = np.stack([-np.sin(theta), np.cos(theta)], 1)
    points = np.cumsum(up, 0) * STEP_MM
    points -= points[np.searchsorted(s, 0.0)]
    return Centreline(s, points, up, posterior)
