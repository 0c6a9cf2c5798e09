"""Shapes of vertebral bodies, discs and sacrum in one sagittal slice, and the label map that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cps4_monai.data.phantom.fields import Fields
from cps4_monai.data.phantom.paint import ANNULUS, CORTEX, paint, paint_bone
from cps4_monai.data.phantom.spine import NUM_LABELED

SACRUM, FIRST_VERTEBRA, FIRST_DISC = 1, 2, 2 + NUM_LABELED


@dataclass(frozen=True)
class Bones:
    """Distance in mm into each kind of structure in one slice, (H, W), negative outside.

    Attributes:
        vertebra: vertebral bodies, of all levels.
        disc: discs, of all levels.
        sacrum: S1 to S5.
        sacral_disc: the rudimentary discs inside the sacrum.
        coccyx: the coccyx.
        relative_depth: n over the local half-depth of the body: -1 anterior wall, 1 posterior wall.
    """

    vertebra: np.ndarray
    disc: np.ndarray
    sacrum: np.ndarray
    sacral_disc: np.ndarray
    coccyx: np.ndarray
    relative_depth: np.ndarray


def shape_bones(fields: Fields, x_mm: float) -> Bones:
    """Bodies with concave end plates and walls, discs that bulge, the sacrum's wedge, at one lateral position."""
    lateral = np.abs(fields.lateral_position(x_mm))
    # Superellipse in the axial plane: kidney-like bodies, rounder than a box and fuller than an ellipse.
    share = lateral / fields.half_width
    roundness = np.sqrt(np.maximum(1 - share * share * share, 0))
    half_depth = np.maximum(fields.half_depth * roundness, np.float32(0.1))
    side = fields.half_width - lateral
    relative = fields.n / half_depth
    depth = np.abs(fields.n)
    dome = np.maximum(1 - relative * relative, 0)

    ending = fields.half_height * (1 - fields.endplate_concavity * dome) - np.abs(fields.t)
    vertebra = np.minimum(np.minimum(ending, half_depth * fields.waist - depth), side)

    # A disc fills the gap between the end plates: its surface is the bodies' own.
    rim = half_depth + fields.disc_overhang - depth
    disc = np.minimum(np.minimum(-ending, rim), side)
    disc = np.where(fields.s < 0, np.minimum(disc, fields.s), disc)

    ends = fields.spine.sacrum_ends
    body = np.minimum(half_depth - depth, side)
    sacrum = np.minimum(np.minimum(-fields.s, fields.s - float(ends[4])), body)
    coccyx = np.minimum(np.minimum(float(ends[4]) - 2 - fields.s, fields.s - float(ends[5])), body)
    sacral_disc = np.minimum(fields.sacral_joint, half_depth * np.float32(0.85) - depth)
    return Bones(vertebra, disc, sacrum, sacral_disc, coccyx, relative)


def label_slice(fields: Fields, bones: Bones) -> np.ndarray:
    """Label map of the slice, (H, W) uint8, in the codes of MRSpineSeg; levels above T9 stay background."""
    label = (bones.sacrum > 0).astype(np.uint8) * np.uint8(SACRUM)
    inside = (bones.disc > 0) & (fields.disc < NUM_LABELED)
    label[inside] = (FIRST_DISC + fields.disc[inside]).astype(np.uint8)
    inside = (bones.vertebra > 0) & (fields.level < NUM_LABELED) & (fields.s > 0)
    label[inside] = (FIRST_VERTEBRA + fields.level[inside]).astype(np.uint8)
    return label


def paint_bones(fields: Fields, bones: Bones, image: np.ndarray, texture: np.ndarray, modic: np.ndarray) -> None:
    """Vertebral bodies, discs and sacrum: dark cortex, mid-grey marrow, bright nucleus where the disc is healthy.

    Args:
        fields: maps of the plane.
        bones: shapes of the slice.
        image: slice, (H, W), changed in place.
        texture: fine texture, (H, W).
        modic: brightening of the marrow beside each disc, (levels,), relative.
    """
    near_disc = np.maximum(1 - (fields.half_height - np.abs(fields.t)) / 8, 0)
    marrow = fields.marrow * (1 + 0.12 * texture) * (1 + near_disc * fields.at_disc(modic))
    vein = fields.cover(1.6 - np.abs(fields.t), 1.5) * np.clip((bones.relative_depth - 0.2) * 1.5, 0, 1)
    marrow += 0.2 * vein

    paint(image, fields.cover(bones.disc + 1.0), CORTEX)
    paint(image, fields.cover(bones.vertebra + 0.6), CORTEX)
    paint(image, fields.cover(bones.vertebra - 0.9), marrow)

    healthy = 1 - fields.degeneration
    paint(image, fields.cover(bones.disc - 0.2), ANNULUS + 0.05 * healthy)
    nucleus = 1 - np.hypot(fields.disc_t / (fields.half_gap * 1.15), (bones.relative_depth - 0.05) / 0.72)
    bright = (0.6 * healthy * np.sqrt(healthy) + 0.1) * (1 + 0.15 * texture)
    bright *= 1 - 0.35 * fields.cover(0.7 - np.abs(fields.disc_t), 0.9) * healthy
    paint(image, np.clip(nucleus * 2.6, 0, 1) * fields.cover(bones.disc - 0.5), bright)

    sacral = float(fields.spine.marrow[0]) * (1.02 + 0.12 * texture)
    paint_bone(fields, image, bones.sacrum, sacral, cortex_mm=1.0)
    paint_bone(fields, image, bones.coccyx, sacral, cortex_mm=1.0)
    paint(image, fields.cover(np.minimum(bones.sacral_disc, bones.sacrum + 1)), CORTEX)
    paint(image, fields.cover(np.minimum(bones.sacral_disc - 1.3, bones.sacrum - 2)), 0.3)
