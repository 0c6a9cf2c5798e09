"""What each pixel of the sagittal plane needs to know of the spine: its level, and the sizes there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def half_height(self) -> np.ndarray:
        """Half the height of the nearest vertebra, mm."""
        return self.at_level(self.spine.height / 2)

    @cached_property
    def half_gap(self) -> np.ndarray:
        """Half the height of the nearest disc, mm."""
        return self.at_disc(self.spine.disc_height / 2)

    @cached_property
    def degeneration(self) -> np.ndarray:
        """Degeneration of the nearest disc, 0 to 1."""
        return self.at_disc(self.spine.degeneration)

    @cached_property
    def marrow(self) -> np.ndarray:
        """Signal of the nearest vertebra's marrow."""
        return self.at_level(self.spine.marrow)

    @cached_property
    def bulge(self) -> np.ndarray:
        """How far the nearest disc bulges backwards, mm."""
        return self.at_disc(self.spine.bulge)

    @cached_property
    def endplate_concavity(self) -> np.ndarray:
        """Depth of the nearest vertebra's end plates, relative to half its height."""
        return self.at_level(self.spine.endplate_concavity)

    @cached_property
    def waist(self) -> np.ndarray:
        """Relative depth of a body along its height: narrowest in the middle."""
        along = self.t / self.half_height
        return 1 - np.float32(0.07) * np.maximum(1 - along * along, 0)

    @cached_property
    def disc_overhang(self) -> np.ndarray:
        """How far the disc stands out over the bodies' walls, mm, more behind where it bulges."""
        along = self.disc_t / (self.half_gap + 1)
        return (self.bulge * (self.n > 0) + np.float32(0.8)) * np.maximum(1 - along * along, 0)

    @cached_property
    def sacral_joint(self) -> np.ndarray:
        """Distance into the nearest of the rudimentary discs S1/S2 to S3/S4, mm."""
        half_gaps = (1.9, 1.2, 0.8)
        inside = [g - np.abs(self.s - float(e)) for g, e in zip(half_gaps, self.spine.sacrum_ends, strict=False)]
        return np.maximum(np.maximum(inside[0], inside[1]), inside[2]).astype(np.float32)

    @cached_property
    def arch_size(self) -> np.ndarray:
        """Relative size of the arches: lumbar ones are largest."""
        return np.float32(self.spine.scale) * (1 - np.clip(self.s / 900, 0, 0.35))

    @cached_property
    def arch_behind(self) -> np.ndarray:
        """Distance behind the canal, where the arches are, mm."""
        return self.n - self.canal - np.float32(self.spine.canal_radius + 2)

    @cached_property
    def arch_along(self) -> np.ndarray:
        """Position along the spine from the middle of the nearest spinous process, which points downwards, mm."""
        steep = np.clip((self.s - 110) / 260, 0, np.float32(0.75)) + np.float32(0.2)
        shifted = self.s + steep * self.arch_behind
        centre = (self.spine.vertebra_centre - 0.38 * self.spine.height).astype(np.float32)
        nearest = np.searchsorted((centre[1:] + centre[:-1]) / 2, shifted)
        return shifted - centre[nearest]

    def at_level(self, values: np.ndarray) -> np.ndarray:
        """One value per vertebra, spread over the plane."""
        return values.astype(np.float32)[self.level]

    def at_disc(self, values: np.ndarray) -> np.ndarray:
        """One value per disc, spread over the plane."""
        return values.astype(np.float32)[self.disc]

    def cover(self, inside_mm: np.ndarray, edge_mm: float = EDGE_MM) -> np.ndarray:
        """Share of the pixel, 0 to 1, inside a surface that lies ``inside_mm`` outwards of it (partial volume)."""
        width = max(self.pixel_mm, edge_mm)
        return np.clip(inside_mm / width + 0.5, 0, 1)

    def lateral_position(self, x_mm: float) -> np.ndarray:
        """Lateral distance from the spine's middle, which scoliosis shifts along s."""
        return np.float32(x_mm) - self._shift

    @cached_property
    def _shift(self) -> np.ndarray:
        amplitude, period, phase = self.spine.scoliosis
        return np.float32(amplitude) * np.sin(self.s * np.float32(2 * np.pi / period) + np.float32(phase))


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
    canal = half_depth + np.float32(spine.canal_radius + 0.8)
    return Fields(
        spine,
        s,
        n,
        level,
        s - centre.astype(np.float32)[level],
        disc,
        s - middle.astype(np.float32)[disc],
        half_depth,
        half_width,
        canal,
        pixel_mm,
    )


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
