"""The trunk around the spine: organs, fat, vessels and muscles, one sagittal slice at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cps4_monai.data.phantom.centreline import Centreline
from cps4_monai.data.phantom.fields import Fields
from cps4_monai.data.phantom.paint import FAT, MUSCLE, VESSEL, paint
from cps4_monai.data.phantom.upsample import smooth_noise


@dataclass(frozen=True)
class Body:
    """Outlines and tissue of the trunk, one subject.

    Attributes:
        skin: distance in mm from the pixel back to the skin, (H, W); negative outside the body.
        belly: distance from the pixel forward to the skin of the belly, (H, W).
        front: distance before the spine's course, smoothed, in mm, (H, W).
        fascia: n at which subcutaneous fat begins behind the spine, in mm.
        muscle_fat: share of fat in the muscles of the back, 0 to 1.
        vessel: offset before the bodies, lateral offset and radius in mm of the great vessel.
        organs: two smooth maps of bowel and its filling, (2, H, W).
        texture: fine texture, (D, H, W), unit variance.
        fibres: texture drawn out along the muscles, (D, H, W), unit variance.
        warp: bends the outlines of the arches, (D, 2, H, W), unit variance.
    """

    skin: np.ndarray
    belly: np.ndarray
    front: np.ndarray
    fascia: float
    muscle_fat: float
    vessel: tuple[float, float, float]
    organs: np.ndarray
    texture: np.ndarray
    fibres: np.ndarray
    warp: np.ndarray


def draw_body(
    rng: np.random.Generator, fields: Fields, curve: Centreline, down_mm: np.ndarray, back_mm: np.ndarray, count: int
) -> Body:
    """Draws the trunk of one subject for ``count`` slices; rows and columns lie at ``down_mm`` and ``back_mm``."""
    spine, size = fields.spine, fields.s.shape
    along = _smooth_course(curve, down_mm, fields.pixel_mm)
    fascia = (spine.depth[0] / 2 + 2 * spine.canal_radius + 33 * spine.scale) * rng.uniform(0.97, 1.05)
    outline = smooth_noise(rng, (6, 1), (size[0], 1))[:, 0] * rng.uniform(2, 7)
    skin = (along + fascia + rng.uniform(6, 55) + outline)[:, None] - back_mm
    belly = back_mm - (along - rng.uniform(110, 190) + outline)[:, None]

    def grid(rows_mm: float, cols_mm: float) -> tuple[int, int]:
        wanted = (size[0] * fields.pixel_mm / rows_mm, size[1] * fields.pixel_mm / cols_mm)
        return max(4, int(wanted[0])), max(4, int(wanted[1]))

    return Body(
        skin=skin.astype(np.float32),
        belly=belly.astype(np.float32),
        front=(along[:, None] - spine.depth[0] / 2 - back_mm).astype(np.float32),
        fascia=float(fascia),
        muscle_fat=rng.uniform(0.1, 0.75),
        vessel=(rng.uniform(9, 15), rng.uniform(-12, 12), rng.uniform(5, 9)),
        organs=smooth_noise(rng, (2, *grid(14, 14)), size),
        texture=smooth_noise(rng, (count, *grid(2.2, 2.2)), size),
        fibres=smooth_noise(rng, (count, *grid(14, 3)), size),
        warp=smooth_noise(rng, (count, 2, *grid(9, 9)), size),
    )


def _smooth_course(curve: Centreline, down_mm: np.ndarray, pixel_mm: float) -> np.ndarray:
    order = np.argsort(curve.points[:, 0])
    along = np.interp(down_mm, curve.points[order, 0], curve.points[order, 1])
    kernel = np.exp(-0.5 * np.linspace(-2.5, 2.5, max(3, int(200 / pixel_mm)) | 1) ** 2)
    reach = len(kernel) // 2
    return np.convolve(np.pad(along, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def paint_soft_tissue(fields: Fields, body: Body, index: int, x_mm: float) -> np.ndarray:
    """Organs, fat, a great vessel and psoas before the spine; muscles and fat behind it; (H, W) float32."""
    spine, n, texture = fields.spine, fields.n, body.texture[index]
    image = 0.2 + 0.04 * texture
    bowel = fields.cover(body.organs[0] * 6 - 2, 3)
    paint(image, bowel, 0.42 + 0.1 * body.organs[1])
    paint(image, fields.cover(body.organs[1] * 6 - 8, 2) * bowel, 0.06 + 0.1 * np.maximum(texture, 0))

    front = -fields.half_depth - n
    # Fat before the sacrum and in the pelvis, and a thin layer along the whole spine.
    pelvis = fields.cover(np.minimum(front + 2, np.minimum(-fields.s + 8, 45 - front + 10 * body.organs[0])), 4)
    paint(image, pelvis, FAT * (0.75 + 0.08 * texture))
    paint(image, fields.cover(np.minimum(front + 2, 5 - front), 3), 0.42 + 0.06 * texture)
    offset, side, radius = body.vessel
    tube = radius - np.hypot(front - offset - 2 * body.organs[1], fields.lateral_position(x_mm) - side)
    paint(image, fields.cover(np.minimum(tube, fields.s - 30), 3), VESSEL + 0.04 * np.maximum(texture, 0))
    psoas_from = 0.75 * float(spine.half_width[0])
    if abs(x_mm) > psoas_from:
        psoas = np.minimum(np.minimum(fields.half_depth * 1.1 - n, n + fields.half_depth * 0.9), fields.s + 5)
        share = min((abs(x_mm) - psoas_from) / 6, 1.0)
        paint(image, fields.cover(psoas, 4) * share, MUSCLE + 0.03 * texture)

    streaks = np.clip(body.fibres[index] * 0.55 + (body.muscle_fat * 1.6 - 0.75), 0, 1)
    muscle = MUSCLE + 0.03 * texture + streaks * (FAT * 0.95 - MUSCLE)
    paint(image, fields.cover(n - fields.half_depth, 3), muscle)
    lobules = FAT * (1.05 + 0.05 * texture - 0.3 * np.clip(body.fibres[index] - 1.6, 0, 1))
    beyond = n - body.fascia
    paint(image, fields.cover(beyond, 1.5), lobules)
    paint(image, fields.cover(1.2 - np.abs(beyond), 1.0) * 0.7, 0.06)
    return image
