"""The vertebral arches: spinous processes in the middle, facets, pedicles and foramina beside it; never labeled."""

from __future__ import annotations

import numpy as np

from cps4_monai.data.phantom.fields import Fields
from cps4_monai.data.phantom.paint import FAT, lowest, paint, paint_bone, rounded_box


def paint_arches(fields: Fields, image: np.ndarray, x_mm: float, texture: np.ndarray, warp: np.ndarray) -> None:
    """Lays the arches over a slice.

    Args:
        fields: maps of the plane.
        image: slice, (H, W), changed in place.
        x_mm: lateral position.
        texture: fine texture, (H, W).
        warp: bends the outlines, (2, H, W), unit variance.
    """
    lateral = np.abs(fields.lateral_position(x_mm))
    nearest = float(lateral.min())
    above_sacrum = fields.s + 14
    marrow = fields.marrow * 1.05 + 0.05 * texture
    if nearest < 11:
        _paint_spinous(fields, image, lateral, above_sacrum, marrow, texture, warp)
    if float(lateral.max()) > 4:
        _paint_pillars(fields, image, lateral, above_sacrum, marrow, warp)


def _paint_spinous(
    fields: Fields,
    image: np.ndarray,
    lateral: np.ndarray,
    above_sacrum: np.ndarray,
    marrow: np.ndarray,
    texture: np.ndarray,
    warp: np.ndarray,
) -> None:
    spine = fields.spine
    size = fields.arch_size
    behind = fields.arch_behind + 1.2 * warp[0]
    along = fields.arch_along + 1.3 * warp[1]
    reach = 27.0 * float(spine.scale)
    between = lowest(behind + 1, reach + 4 - behind, 8 - lateral, above_sacrum)
    paint(image, fields.cover(between, 2) * 0.8, 0.3 + 0.14 * texture + 0.12 * warp[0])
    pad = lowest(behind + 3.5, 5 - behind, np.abs(along) - 8.5 * size, 9 - lateral, above_sacrum)
    paint(image, fields.cover(pad, 2), FAT)
    plate = rounded_box(along, 10.2 * size + 0.07 * behind, behind - reach / 2, reach / 2, 4.5)
    # Thinner than a slice: beside the midline the process fades by partial volume instead of turning into cortex.
    under = image.copy()
    paint_bone(fields, image, np.minimum(plate, above_sacrum), marrow)
    image += np.clip((lateral - 5) / 4 + 0.5, 0, 1) * (under - image)


def _paint_pillars(
    fields: Fields,
    image: np.ndarray,
    lateral: np.ndarray,
    above_sacrum: np.ndarray,
    marrow: np.ndarray,
    warp: np.ndarray,
) -> None:
    size = fields.arch_size
    beside = fields.n - fields.half_depth
    foramen = lowest(beside + 1, 14 * size - beside, 7 - np.abs(lateral - 16), above_sacrum)
    paint(image, fields.cover(foramen, 2), FAT * 0.85)
    nerve = 2.6 - np.hypot(beside - 5, fields.disc_t - 6)
    paint(image, fields.cover(np.minimum(nerve, foramen)), 0.3)
    behind = fields.arch_behind + 2 * warp[0]
    shifted = fields.t + 4 * size + 0.45 * behind + 2 * warp[1]
    half_length = fields.half_height + fields.half_gap + 1
    pillar = rounded_box(shifted, half_length, behind - 3, 8.0 * float(fields.spine.scale), 5)
    paint_bone(fields, image, lowest(pillar, 7 - np.abs(lateral - 13), above_sacrum), marrow * 0.8)
    high = rounded_box(fields.t - 4 * size + warp[1], 0.54 * fields.half_height, beside - 6 + warp[0], 9.0, 3.5)
    paint_bone(fields, image, lowest(high, 8 - np.abs(lateral - 16), above_sacrum), marrow)
