"""T2-weighted signal of one sagittal slice: soft tissue behind and before the spine, canal, bones and discs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cps4_monai.data.phantom.bones import Bones
from cps4_monai.data.phantom.fields import Fields

# Signal relative to cerebrospinal fluid, as seen in lumbar T2w turbo spin echo.
CSF, CORD, ROOTS, FAT, MUSCLE, CORTEX, ANNULUS, VESSEL = 1.0, 0.42, 0.5, 0.8, 0.13, 0.03, 0.08, 0.03


@dataclass(frozen=True)
class Body:
    """Outlines and tissue of the trunk around the spine, one subject.

    Attributes:
        skin: distance in mm behind the pixel to the skin of the back, (H, W); negative outside the body.
        belly: distance before the pixel to the skin of the belly, (H, W).
        fascia: n at which subcutaneous fat begins behind the spine, in mm.
        muscle_fat: share of fat in the muscles of the back, 0 to 1.
        vessel: n offset, lateral offset and radius in mm of the great vessel before the spine.
        organs: smooth map of bowel and mesentery, (H, W), and fine texture, (D, H, W).
    """

    skin: np.ndarray
    belly: np.ndarray
    fascia: float
    muscle_fat: float
    vessel: tuple[float, float, float]
    organs: np.ndarray
    texture: np.ndarray
    fibres: np.ndarray


def paint(image: np.ndarray, share: np.ndarray, value: np.ndarray | float) -> None:
    """Lays ``value`` over ``image`` in place, by the share of each pixel that it covers."""
    image += share * (value - image)


def paint_soft_tissue(fields: Fields, body: Body, index: int, x_mm: float) -> np.ndarray:
    """Muscle, fat, organs and a vessel around the spine; (H, W) float32."""
    spine, n = fields.spine, fields.n
    texture, lateral = body.texture[index], np.abs(x_mm)
    image = 0.2 + 0.05 * texture
    bowel = fields.cover(body.organs[0] * 6 - 2, 3)
    paint(image, bowel, 0.42 + 0.1 * body.organs[1])
    lumen = fields.cover(body.organs[1] * 6 - 8, 2) * bowel
    paint(image, lumen, 0.06 + 0.1 * np.clip(texture, 0, 2))

    front = -fields.half_depth - n
    paint(image, fields.cover(np.minimum(front + 2, 6 - front), 3), 0.45 + 0.05 * texture)
    offset, side, radius = body.vessel
    tube = radius - np.hypot(front - offset, fields.lateral_position(x_mm) - side)
    paint(image, fields.cover(np.minimum(tube, fields.s + 20), 2), VESSEL)
    if lateral > 0.75 * spine.half_width[0]:
        psoas = np.minimum(np.minimum(fields.half_depth * 1.1 - n, n + fields.half_depth * 0.9), fields.s + 5)
        depth_in = np.clip((lateral - 0.75 * spine.half_width[0]) / 6, 0, 1)
        paint(image, fields.cover(psoas, 4) * depth_in, MUSCLE + 0.03 * texture)

    behind = n - fields.half_depth
    streaks = np.clip(body.fibres[index] * 0.5 + body.muscle_fat * 1.6 - 0.7, 0, 1)
    muscle = MUSCLE + 0.03 * texture + streaks * (FAT * 0.75 - MUSCLE)
    paint(image, fields.cover(behind, 3), muscle)
    fat = FAT * (1.08 + 0.05 * texture - 0.3 * np.clip(body.fibres[index] - 1.6, 0, 1))
    paint(image, fields.cover(n - body.fascia, 1.5), fat)
    paint(image, fields.cover(1.2 - np.abs(n - body.fascia), 1.0) * 0.7, 0.06)
    return image


def paint_canal(fields: Fields, image: np.ndarray, x_mm: float, roots: np.ndarray) -> None:
    """Epidural fat, fluid, cord down to the conus, and the strands of the cauda equina below it.

    Args:
        roots: brightness of the strands across the canal, (R,), from anterior to posterior.
    """
    spine = fields.spine
    lateral = fields.lateral_position(x_mm)
    end = spine.sacrum_ends[1] + 6
    taper = np.clip((fields.s - end) / 45, 0, 1) ** 0.5
    narrow = 1 - np.clip((fields.s - 160) / 1200, 0, 0.2)
    # Degenerate discs indent the sac from the front.
    dent = spine.bulge.astype(np.float32)[fields.disc] * np.clip(1 - (fields.disc_t / 7) ** 2, 0, 1)
    radius = np.maximum(spine.canal_radius * taper * narrow - dent / 2, 0.01)
    across = fields.n - fields.canal - dent / 2 + (1 - taper) * 2
    width = spine.canal_radius * 1.35 * np.maximum(taper, 0.05)
    inside = (1 - np.hypot(across / radius, lateral / width)) * np.minimum(radius, width)

    epidural = spine.canal_radius + 2.5 - np.hypot(fields.n - fields.canal - 1.5, lateral / 1.4)
    low = fields.s - spine.sacrum_ends[3]
    paint(image, fields.cover(np.minimum(epidural, low), 1.5), FAT * 0.95)
    paint(image, fields.cover(inside + 1.1), CORTEX)
    paint(image, fields.cover(inside), CSF)

    conus = spine.vertebra_centre[int(spine.conus_level)] + (spine.conus_level % 1) * spine.height[0]
    strand = np.clip((across / radius + 1) / 2, 0, 0.999) * len(roots)
    drift = (fields.s * 0.03).astype(np.float32)
    strands = roots[(strand + drift).astype(np.int32) % len(roots)]
    below = fields.cover(conus - fields.s, 25) * np.clip(across / radius + 0.9, 0, 1) * np.clip(fields.s / 90 + 0.6, 0, 1)
    paint(image, fields.cover(inside - 0.8) * strands * below, ROOTS)

    thin = np.clip((fields.s - conus) / 28, 0, 1) ** 0.6
    cord = (1 - np.hypot((across + 0.6) / (3.6 * spine.scale), lateral / (5.0 * spine.scale)) - (1 - thin)) * 3.6
    paint(image, fields.cover(cord), CORD)


def paint_posterior_elements(fields: Fields, image: np.ndarray, x_mm: float, texture: np.ndarray) -> None:
    """Spinous processes near the midline; laminae, facets, pedicles and the foramina between them beside it."""
    spine = fields.spine
    lateral = np.abs(fields.lateral_position(x_mm))
    behind = fields.n - fields.canal - spine.canal_radius - 2.5
    steep = np.clip((fields.s - 110) / 260, 0, 0.75).astype(np.float32) + 0.22
    shifted = fields.s + steep * behind
    size = spine.scale * (1 - np.clip(fields.s / 900, 0, 0.35))
    centre = spine.vertebra_centre.astype(np.float32) - 0.36 * spine.height.astype(np.float32)
    bounds = (centre[1:] + centre[:-1]) / 2
    along = shifted - centre[np.searchsorted(bounds, shifted)]
    marrow = spine.marrow.astype(np.float32)[fields.level] * 0.95 + 0.04 * texture
    high = fields.s + 12

    reach = 27 * size
    plate = np.minimum(7.6 * size + 0.06 * behind - np.abs(along), np.minimum(behind, reach - behind))
    spinous = np.minimum(np.minimum(plate, 4.5 - lateral), high)
    between = np.minimum(np.minimum(behind + 1, reach - behind), np.minimum(7 - lateral, high))
    paint(image, fields.cover(between, 2) * 0.75, 0.28 + 0.1 * texture)
    fat_pad = np.minimum(np.minimum(behind + 4, 6 - behind) - 0.1 * along**2 * 0, np.minimum(np.abs(along) - 7 * size, 9 - lateral))
    paint(image, fields.cover(np.minimum(fat_pad, high), 1.5), FAT)
    _paint_bone(fields, image, spinous, marrow)

    pillar_centre = spine.canal_radius * 0.2 + 6
    pillar = np.minimum(8.5 * size - np.abs(behind - pillar_centre + 6), 6.5 - np.abs(lateral - 12))
    joint = np.abs(fields.disc_t + 3 - 0.35 * behind) - 1.3
    _paint_bone(fields, image, np.minimum(np.minimum(pillar, joint), high), marrow)
    beside = fields.n - fields.half_depth
    foramen = np.minimum(np.minimum(beside + 1, 15 * size - beside), 7 - np.abs(lateral - 15))
    paint(image, fields.cover(np.minimum(foramen, high), 2), FAT * 0.85)
    nerve = 2.8 - np.hypot(beside - 5, fields.disc_t - 5)
    paint(image, fields.cover(np.minimum(nerve, np.minimum(foramen, high))), 0.3)
    pedicle = np.minimum(0.26 * spine.height.astype(np.float32)[fields.level] - np.abs(fields.t - 4 * size), foramen + 2)
    _paint_bone(fields, image, np.minimum(pedicle, high), marrow)


def paint_bones(fields: Fields, bones: Bones, image: np.ndarray, texture: np.ndarray, modic: np.ndarray) -> None:
    """Vertebral bodies, discs and sacrum: dark cortex, mid-grey marrow, bright nucleus where the disc is healthy.

    Args:
        modic: brightening of the marrow beside each disc, (levels,), relative.
    """
    spine = fields.spine
    marrow = spine.marrow.astype(np.float32)[fields.level] * (1 + 0.1 * texture)
    half_height = (spine.height.astype(np.float32) / 2)[fields.level]
    near_disc = np.clip(1 - (half_height - np.abs(fields.t)) / 8, 0, 1)
    marrow = marrow * (1 + near_disc * modic.astype(np.float32)[fields.disc])
    vein = fields.cover(1.6 - np.abs(fields.t), 1.5) * np.clip((bones.relative_depth - 0.2) * 1.5, 0, 1)
    marrow = marrow + 0.22 * vein

    paint(image, fields.cover(bones.disc + 1.0), CORTEX)
    paint(image, fields.cover(bones.vertebra + 0.6), CORTEX)
    paint(image, fields.cover(bones.vertebra - 0.9), marrow)

    dull = spine.degeneration.astype(np.float32)[fields.disc]
    half_gap = (spine.disc_height.astype(np.float32) / 2)[fields.disc]
    paint(image, fields.cover(bones.disc - 0.2), ANNULUS + 0.05 * (1 - dull))
    nucleus = 1 - np.hypot(fields.disc_t / (half_gap * 1.15), (bones.relative_depth - 0.05) / 0.72)
    bright = np.clip(0.62 * (1 - dull) ** 1.3 + 0.1, 0, 1) * (1 + 0.12 * texture)
    cleft = 1 - 0.35 * fields.cover(0.7 - np.abs(fields.disc_t), 0.9) * (1 - dull)
    paint(image, np.clip(nucleus * 2.6, 0, 1) * fields.cover(bones.disc - 0.5), bright * cleft)

    sacral = spine.marrow[0] * (1.02 + 0.1 * texture)
    for shape in (bones.sacrum, bones.coccyx):
        _paint_bone(fields, image, shape, sacral, cortex_mm=1.0)
    paint(image, fields.cover(np.minimum(bones.sacral_disc, bones.sacrum + 1)), CORTEX)
    paint(image, fields.cover(np.minimum(bones.sacral_disc - 1.3, bones.sacrum - 2)), 0.3)


def _paint_bone(
    fields: Fields, image: np.ndarray, inside: np.ndarray, marrow: np.ndarray | float, cortex_mm: float = 1.3
) -> None:
    paint(image, fields.cover(inside + 0.5), CORTEX)
    paint(image, fields.cover(inside - cortex_mm), marrow)
