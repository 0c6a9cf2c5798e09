"""One subject's spine: sizes, angles and ailments of each level, drawn at random around real proportions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Vertebrae with a label: L5 (level 0) up to T9 (level 8); those above are drawn but not labeled.
NUM_LABELED = 9

# One column per level, L5 up to T2. Heights, depths and widths in mm, after the bodies in the SPIDER label maps
# (lumbar) and Panjabi et al., Spine 1991/1992 (thoracic). Angles in degrees, lordosis positive.
_VERTEBRA_HEIGHT = [26, 26.5, 27, 27, 26, 24.5, 23, 22, 21, 20.5, 20, 19.5, 19, 18.5, 18, 17.5]
_VERTEBRA_DEPTH = [34.5, 35.5, 35.5, 34.5, 32.5, 32, 31.5, 30.5, 29.5, 28, 27, 26, 25, 24, 23, 22]
_VERTEBRA_WIDTH = [50, 48, 46, 44, 42, 41, 39, 36, 34, 33, 32, 31, 30, 29, 28, 28]
_VERTEBRA_ANGLE = [9, 4, 0, -2, -3, -4, -4, -3.5, -3.5, -3.5, -4, -4, -4, -3, -3, -2]
_DISC_HEIGHT = [10, 11, 10.5, 9.5, 8.3, 7, 6, 5.4, 5.2, 4.6, 4.4, 4.2, 4, 4, 4, 4]
_DISC_ANGLE = [14, 12, 9, 6, 4, 1, 0, -1, -1, -1, -1, -1, -1, -1, -1, -1]
# S1 to S5 and the coccyx, from the top down: length along the curve, then AP depth, half-width and bend at its end.
_SACRUM_LENGTH = [29, 24, 20, 17, 15, 25]
_SACRUM_DEPTH = [24, 18, 14, 11.5, 9.5, 6]
_SACRUM_HALF_WIDTH = [46, 42, 34, 27, 20, 6]
_SACRUM_ANGLE = [2, 9, 16, 18, 16, 14]


@dataclass(frozen=True)
class Spine:
    """Sizes in mm along and across the spine, angles in radians; arrays run over levels from L5 up.

    ``s`` is the arc length along the centreline of the vertebral bodies, 0 at the top of the sacrum and growing
    upwards; ``n`` the distance from it, growing to posterior; ``x`` the lateral one.
    """

    height: np.ndarray
    depth: np.ndarray
    half_width: np.ndarray
    vertebra_angle: np.ndarray
    disc_height: np.ndarray
    disc_angle: np.ndarray
    degeneration: np.ndarray
    bulge: np.ndarray
    endplate_concavity: np.ndarray
    marrow: np.ndarray
    sacrum_length: np.ndarray
    sacrum_depth: np.ndarray
    sacrum_half_width: np.ndarray
    sacrum_angle: np.ndarray
    sacral_slope: float
    scoliosis: tuple[float, float, float]
    canal_radius: float
    conus_level: float
    scale: float

    @property
    def vertebra_bottom(self) -> np.ndarray:
        """Arc length of each vertebra's lower end plate."""
        return np.cumsum(self.disc_height) + np.concatenate([[0.0], np.cumsum(self.height)[:-1]])

    @property
    def vertebra_centre(self) -> np.ndarray:
        """Arc length of each vertebra's middle."""
        return self.vertebra_bottom + self.height / 2

    @property
    def disc_middle(self) -> np.ndarray:
        """Arc length of the middle of the disc below each vertebra."""
        return self.vertebra_bottom - self.disc_height / 2

    @property
    def sacrum_ends(self) -> np.ndarray:
        """Arc length (negative) of the lower end of S1 to S5 and of the coccyx."""
        return -np.cumsum(self.sacrum_length)


def draw_spine(rng: np.random.Generator, variation: float = 1.0) -> Spine:
    """Draws one subject: stature, posture, degenerate discs (dark, thin, bulging) and, in some, wedge fractures.

    Args:
        rng: where the draws come from.
        variation: factor on how far stature and posture stray from their means.
    """
    levels = len(_VERTEBRA_HEIGHT)
    scale = 0.98 + variation * rng.uniform(-0.12, 0.12)
    lordosis = 0.975 + variation * rng.uniform(-0.325, 0.325)
    kyphosis = 0.9 + variation * rng.uniform(-0.4, 0.4)

    def jitter(spread: float) -> np.ndarray:
        return rng.normal(1, spread, levels)

    degeneration = _draw_degeneration(rng, levels)
    height = np.array(_VERTEBRA_HEIGHT) * scale * jitter(0.02)
    depth = np.array(_VERTEBRA_DEPTH) * scale * rng.normal(1, 0.04) * jitter(0.012)
    disc_height = np.array(_DISC_HEIGHT) * scale * rng.normal(1, 0.07) * (1 - 0.5 * degeneration) * jitter(0.05)
    concavity = np.clip(rng.normal(0.09, 0.03) * jitter(0.2), 0.02, 0.2)

    vertebra_angle = np.array(_VERTEBRA_ANGLE) * np.where(np.array(_VERTEBRA_ANGLE) > 0, lordosis, kyphosis)
    disc_angle = np.array(_DISC_ANGLE) * np.where(np.array(_DISC_ANGLE) > 0, lordosis * (1 - 0.4 * degeneration), 1)
    vertebra_angle = vertebra_angle + rng.normal(0, 1, levels)
    disc_angle = disc_angle + rng.normal(0, 0.7, levels)
    fractured = rng.random(levels) < np.where((np.arange(levels) >= 3) & (np.arange(levels) <= 9), 0.04, 0.01)
    severity = rng.uniform(0.4, 1, levels) * fractured
    vertebra_angle -= 15 * severity
    height *= 1 - 0.22 * severity
    concavity = concavity + 0.12 * severity * rng.random(levels)

    lumbar = disc_angle[:5].sum() + vertebra_angle[:5].sum()
    return Spine(
        height=height,
        depth=depth,
        half_width=np.array(_VERTEBRA_WIDTH) * scale / 2 * rng.normal(1, 0.04),
        vertebra_angle=np.deg2rad(vertebra_angle),
        disc_height=np.maximum(disc_height, 2.0),
        disc_angle=np.deg2rad(disc_angle),
        degeneration=degeneration,
        bulge=degeneration * rng.uniform(0, 4.5, levels),
        endplate_concavity=concavity,
        marrow=rng.uniform(0.26, 0.46) * jitter(0.05) * (1 - 0.25 * severity),
        sacrum_length=np.array(_SACRUM_LENGTH) * scale * rng.normal(1, 0.03, 6),
        sacrum_depth=np.array(_SACRUM_DEPTH) * scale * rng.normal(1, 0.05),
        sacrum_half_width=np.array(_SACRUM_HALF_WIDTH) * scale,
        sacrum_angle=np.deg2rad(np.array(_SACRUM_ANGLE) * rng.uniform(0.6, 1.25) + rng.normal(0, 2, 6)),
        sacral_slope=np.deg2rad(0.78 * lumbar + rng.normal(0, 5)),
        scoliosis=(rng.normal(0, 2.0), rng.uniform(180, 400), rng.uniform(0, 2 * np.pi)),
        canal_radius=rng.uniform(5.8, 7.8) * scale,
        conus_level=rng.uniform(3.6, 5.0),
        scale=scale,
    )


def _draw_degeneration(rng: np.random.Generator, levels: int) -> np.ndarray:
    """Degeneration of each disc, 0 healthy to 1 collapsed; most at L4/L5 and L5/S, more in some subjects."""
    age = rng.uniform(0.1, 1.1)
    load = np.array([1, 1, 0.7, 0.55, 0.45] + [0.4] * (levels - 5))
    return np.clip(age * load + rng.normal(0, 0.16, levels), 0, 1)
