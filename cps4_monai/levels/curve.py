"""The course of the spine in the sagittal plane: a smooth curve through the structures that were found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MIN_LENGTH_MM = 45.0  # below, one body and a disc: the scatter of centroids says nothing of the direction
_KNOTS = 256


@dataclass(frozen=True)
class SpineCurve:
    """A cubic over the main axis of the structures' centroids, straight beyond its ends, walked from inferior up.

    The main axis follows the spine, not the image, so a tilted or strongly curved spine is ordered as it runs.

    Attributes:
        origin_hw_mm: (2,) centre over (H, W).
        axis_hw: (2,) unit vector along the spine, superior.
        knots_mm: (K,) coordinate along the axis.
        offset_mm: (K,) the curve's offset from the axis at the knots.
        arc_mm: (K,) its arc length.
    """

    origin_hw_mm: np.ndarray
    axis_hw: np.ndarray
    knots_mm: np.ndarray
    offset_mm: np.ndarray
    arc_mm: np.ndarray

    @classmethod
    def fit(cls, centroids_hw_mm: np.ndarray, weights: np.ndarray) -> SpineCurve:
        """Fit to centroids; outliers lose their weight in three rounds.

        Args:
            centroids_hw_mm: (N, 2) over (H, W), H growing to inferior, W to posterior.
            weights: (N,) positive weights.
        """
        points = np.asarray(centroids_hw_mm, dtype=np.float64).reshape(-1, 2)
        weights = np.asarray(weights, dtype=np.float64)
        up = np.array([-1.0, 0.0])
        if len(points) == 0:
            knots = np.linspace(-1.0, 1.0, _KNOTS)
            return cls(np.zeros(2), up, knots, np.zeros(_KNOTS), knots + 1.0)
        origin = np.average(points, axis=0, weights=weights)
        axis = _main_axis(points - origin, weights, up)
        along, across = _coordinates(points - origin, axis)
        degree = int(np.clip((len(points) - 1) // 2, 0, 3)) if np.ptp(along) > _MIN_LENGTH_MM else 0
        robust = weights.copy()
        for _ in range(3):
            scale = max(float(np.ptp(along)) / 2.0, 1.0)
            coefficients = np.polynomial.polynomial.polyfit(along / scale, across, degree, w=np.sqrt(robust))
            residual = np.abs(across - np.polynomial.polynomial.polyval(along / scale, coefficients))
            robust = weights / np.maximum(1.0, (residual / 5.0) ** 2)
        knots = np.linspace(along.min(), along.max() + 1e-3, _KNOTS)
        offset = np.polynomial.polynomial.polyval(knots / scale, coefficients)
        arc = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(knots), np.diff(offset)))])
        return cls(origin, axis, knots, offset, arc)

    def locate(self, points_hw_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where points lie along the curve.

        Args:
            points_hw_mm: (N, 2) over (H, W).

        Returns:
            (N,) arc length in mm, growing to superior, negative below the lower end; (N,) signed distance from the
            curve in mm; (N, 2) unit tangents over (H, W), superior.
        """
        along, across = _coordinates(np.asarray(points_hw_mm, dtype=np.float64) - self.origin_hw_mm, self.axis_hw)
        slopes = np.gradient(self.offset_mm, self.knots_mm)
        foot = along
        for _ in range(2):  # two Newton-like steps to the nearest point of the curve
            offset, slope = self._at(foot, slopes)
            foot = foot + ((along - foot) + (across - offset) * slope) / (1.0 + slope**2)
        offset, slope = self._at(foot, slopes)
        arc = np.interp(foot, self.knots_mm, self.arc_mm)
        stretch = np.sqrt(1.0 + slope**2)
        arc = arc + (foot - np.clip(foot, self.knots_mm[0], self.knots_mm[-1])) * stretch
        across_axis = np.array([-self.axis_hw[1], self.axis_hw[0]])
        tangent = (self.axis_hw + slope[:, None] * across_axis) / stretch[:, None]
        return arc, (across - offset) / stretch - (along - foot) * slope / stretch, tangent

    def _at(self, along: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = np.clip(along, self.knots_mm[0], self.knots_mm[-1])
        slope = np.interp(inside, self.knots_mm, slopes)
        return np.interp(inside, self.knots_mm, self.offset_mm) + (along - inside) * slope, slope


def _main_axis(centred: np.ndarray, weights: np.ndarray, up: np.ndarray) -> np.ndarray:
    if len(centred) < 2:
        return up
    values, vectors = np.linalg.eigh(np.einsum("n,ni,nj->ij", weights, centred, centred) / weights.sum())
    axis = vectors[:, 1]
    along = centred @ axis
    if np.ptp(along) < _MIN_LENGTH_MM or values[1] < 2.0 * values[0]:
        return up
    return axis if axis @ up >= 0 else -axis


def _coordinates(centred: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return centred @ axis, centred @ np.array([-axis[1], axis[0]])
