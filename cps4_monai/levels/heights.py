"""How tall structures are, along the spine, and how tall one structure may be."""

from __future__ import annotations

import numpy as np

from cps4_monai.levels.components import Components
from cps4_monai.levels.moments import Moments
from cps4_monai.levels.settings import LevelThresholds


def structure_heights(covariance_mm2: np.ndarray, kinds: np.ndarray, tangent_hw: np.ndarray) -> np.ndarray:
    """Extent in mm of structures along the spine, from their second moments.

    A vertebra is measured along the spine's tangent. A disc is measured across itself, along the shorter axis of its
    section: the lowest ones are tilted against the spine by 30 degrees and more.

    Args:
        covariance_mm2: (..., 2, 2) covariances over (H, W).
        kinds: (...) kinds, broadcast.
        tangent_hw: (..., 2) unit tangents, broadcast.
    """
    along = np.einsum("...i,...ij,...j->...", tangent_hw, covariance_mm2, tangent_hw)
    half_trace = 0.5 * (covariance_mm2[..., 0, 0] + covariance_mm2[..., 1, 1])
    half_difference = 0.5 * (covariance_mm2[..., 0, 0] - covariance_mm2[..., 1, 1])
    across = half_trace - np.hypot(half_difference, covariance_mm2[..., 0, 1])
    return np.sqrt(12.0 * np.maximum(np.where(kinds == "disc", across, along), 0.0))


def typical_heights(components: Components, heights: np.ndarray, thresholds: LevelThresholds) -> dict[str, float]:
    """Typical height in mm per kind: the median over its larger components, within the range of the thresholds."""
    result = {}
    for kind in np.unique(components.kinds[components.fixed_code == 0]).tolist():
        of_kind = (components.kinds == kind) & (components.fixed_code == 0)
        whole = of_kind & (components.moments.volume_mm3 >= 0.3 * components.typical_volume_mm3(kind))
        low, high = thresholds.height_range(kind)
        result[kind] = float(np.clip(np.median(heights[whole]), low, high))
    return result


def height_limits(kinds: np.ndarray, typical: dict[str, float], thresholds: LevelThresholds) -> np.ndarray:
    """(N,) height in mm above which a component is not one structure; unbounded but for vertebrae and discs."""
    slack = {"vertebra": 0.0, "disc": thresholds.disc_slack_mm}
    return np.array(
        [thresholds.tall_ratio * typical[k] + slack[k] if k in slack and k in typical else np.inf for k in kinds]
    )


def union_covariance(moments: Moments, rows: np.ndarray) -> np.ndarray:
    """(n, n, 2, 2) covariance over (H, W) of each pair of regions taken as one.

    Args:
        moments: of the regions.
        rows: (n,) indices of the regions.
    """
    voxels = moments.voxels[rows].astype(np.float64)
    first = voxels[:, None] / (voxels[:, None] + voxels[None, :])
    centres = moments.centroid_mm[rows, 1:]
    apart = centres[:, None, :] - centres[None, :, :]
    covariance = moments.covariance_mm2[rows]
    mixed = first[..., None, None] * covariance[:, None] + (1.0 - first)[..., None, None] * covariance[None, :]
    between = (first * (1.0 - first))[..., None, None] * apart[..., :, None] * apart[..., None, :]
    return mixed + between


def union_heights(
    moments: Moments, kinds: np.ndarray, tangent: np.ndarray, place_mm: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Extent along the spine of pairs of regions taken as one structure: by their covariance, and by where they lie.

    The covariance alone would take a whole disc and the remains of the next for one: they have little weight, however
    far away.

    Args:
        moments: of N regions.
        kinds: (N,) their kinds.
        tangent: (N, 2) direction of the spine at each, along (H, W).
        place_mm: (N,) place of each along the spine.
        rows: (n,) the regions compared.

    Returns:
        (n, n) heights in mm.
    """
    union = structure_heights(union_covariance(moments, rows), kinds[rows][None, :], tangent[rows][None, :])
    height = structure_heights(moments.covariance_mm2, kinds, tangent)[rows]
    apart = np.abs(place_mm[rows][:, None] - place_mm[rows][None, :])
    return np.maximum(union, apart + 0.5 * (height[:, None] + height[None, :]))
