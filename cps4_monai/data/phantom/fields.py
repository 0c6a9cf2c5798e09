"""What each pixel of the sagittal plane needs to know of the spine: its level, and the sizes there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cps4_monai.data.phantom.spine import Spine

EDGE_MM = 0.9


@dataclass(frozen=True)
class Fields:
    """Maps over the sagittal plane, each (H, W) float32 in mm unless said otherwise.

    Attributes:
        s: arc length along the spine, see :class:`Spine`.
        n: distance from the centreline, positive to posterior.
        level: index of the nearest vertebra, 0 = L5, int.
        t: position along the spine from that vertebra's middle.
        disc: index of the nearest disc (the one below the vertebra of that index), int.
        disc_t: position along the spine from that disc's middle.
        half_depth: of the vertebral bodies and the sacrum, interpolated along the spine.
        half_width: the same, lateral.
        canal: n of the canal's middle.
        pixel_mm: in-plane pixel.
    """

    spine: Spine
    s: np.ndarray
    n: np.ndarray
    level: np.ndarray
    t: np.ndarray
    disc: np.ndarray
    disc_t: np.ndarray
    half_depth: np.ndarray
    half_width: np.ndarray
    canal: np.ndarray
    pixel_mm: float

    def cover(self, inside_mm: np.ndarray, edge_mm: float = EDGE_MM) -> np.ndarray:
        """Share of the pixel, 0 to 1, inside a surface that lies ``inside_mm`` outwards of it (partial volume)."""
        width = max(self.pixel_mm, edge_mm)
        return np.clip(inside_mm / width + 0.5, 0, 1)

    def lateral_position(self, x_mm: float) -> np.ndarray:
        """Lateral distance from the spine's middle, which scoliosis shifts along s."""
        amplitude, period, phase = self.spine.scoliosis
        return x_mm - amplitude * np.sin(self.s * (2 * np.pi / period) + phase).astype(np.float32)


def make_fields(spine: Spine, s: np.ndarray, n: np.ndarray, pixel_mm: float) -> Fields:
    """Looks up level and sizes for each pixel.

    Args:
        spine: the subject.
        s: arc length, (H, W).
        n: distance from the centreline, (H, W).
        pixel_mm: in-plane pixel.
    """
    centre, middle = spine.vertebra_centre, spine.disc_middle
    level = np.clip(np.searchsorted(middle, s) - 1, 0, len(middle) - 1)
    disc = np.clip(np.searchsorted(centre, s), 0, len(middle) - 1)
    half_depth, half_width = _profile(spine, s, "depth"), _profile(spine, s, "half_width")
    # The canal lies behind the posterior wall, narrows towards the sacrum's end and is wider in the neck of the sac.
    canal = half_depth + spine.canal_radius + np.float32(0.8)
    return Fields(
        spine, s, n, level, s - centre.astype(np.float32)[level], disc, s - middle.astype(np.float32)[disc],
        half_depth, half_width, canal, pixel_mm,
    )  # fmt: skip


def _profile(spine: Spine, s: np.ndarray, what: str) -> np.ndarray:
    """Half-depth or half-width at an arc length, linear between the vertebrae's middles and the sacrum's ends."""
    if what == "depth":
        upper, lower, top = spine.depth / 2, spine.sacrum_depth / 2, spine.depth[0] / 2 * 0.97
    else:
        upper, lower, top = spine.half_width, spine.sacrum_half_width, spine.half_width[0]
    knots = np.concatenate([spine.sacrum_ends[::-1], [0.0], spine.vertebra_centre])
    values = np.concatenate([lower[::-1], [top], upper])
    # A table at 0.5 mm is looked up several times faster than interpolating each pixel.
    grid = np.arange(knots[0], knots[-1], 0.5)
    table = np.interp(grid, knots, values).astype(np.float32)
    index = np.clip((s - grid[0]) * 2, 0, len(grid) - 1).astype(np.int32)
    return table[index]
