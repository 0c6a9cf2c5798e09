"""The spinal canal: epidural fat, dura, fluid, cord and cauda equina."""

from __future__ import annotations

import numpy as np

from cps4_monai.data.phantom.fields import Fields
from cps4_monai.data.phantom.paint import CORD, CORTEX, CSF, FAT, ROOTS, paint


def paint_canal(fields: Fields, image: np.ndarray, x_mm: float, roots: np.ndarray) -> None:
    """Lays the canal over a slice: the sac ends at S2, the cord at the conus.

    Args:
        fields: maps of the plane.
        image: slice, (H, W), changed in place.
        x_mm: lateral position.
        roots: brightness of the strands of the cauda equina across the sac, (R,), from anterior to posterior.
    """
    spine, s = fields.spine, fields.s
    wide = float(spine.canal_radius)
    lateral = fields.lateral_position(x_mm)
    end = float(spine.sacrum_ends[1]) + 8
    taper = np.sqrt(np.clip((s - end) / 55, 0, 1)) * (1 - np.clip((s - 160) / 1200, 0, 0.2))
    # Degenerate discs indent the sac from the front.
    dent = fields.bulge * np.maximum(1 - (fields.disc_t / 8) ** 2, 0) / 2
    radius = np.maximum(wide * taper - dent, 0.01)
    across = (fields.n - fields.canal - dent + (1 - taper) * 2) / radius
    width = wide * 1.45 * np.maximum(taper, 0.05)
    inside = (1 - np.hypot(across, lateral / width)) * np.minimum(radius, width)

    bottom = float(spine.sacrum_ends[3])
    room = (wide + 1.5 + 1.5 * np.clip(1 - s / 60, 0, 1)) * np.sqrt(np.clip((s - bottom) / -bottom, 0, 1))
    fat = room - np.hypot(fields.n - fields.canal - 1, lateral / 1.5)
    paint(image, fields.cover(np.minimum(fat, s - bottom), 1.5), FAT * 0.9)
    paint(image, fields.cover(inside + 1.0), CORTEX)
    paint(image, fields.cover(inside), CSF)

    level = int(spine.conus_level)
    conus = float(spine.vertebra_centre[level] + (spine.conus_level - level) * spine.height[level])
    strand = np.clip((across + 1) / 2, 0, 0.999) * len(roots) + s * 0.03
    strands = roots[strand.astype(np.int32) % len(roots)]
    below = fields.cover(conus - s, 25) * np.clip(across + 0.9, 0, 1) * np.clip(s / 90 + 0.6, 0, 1)
    paint(image, fields.cover(inside - 0.8) * strands * below, ROOTS)

    thin = np.sqrt(np.clip((s - conus) / 28, 0, 1))
    scale = float(spine.scale)
    cord = (thin - np.hypot((across * radius + 0.6) / (3.4 * scale), lateral / (4.8 * scale))) * 3.4
    paint(image, fields.cover(np.minimum(cord, inside - 0.5)), CORD)
