"""Shapes of vertebral bodies, discs and sacrum in one sagittal slice, and the label map that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cps4_monai.data.phantom.fields import Fields
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
    spine = fields.spine
    lateral = fields.lateral_position(x_mm)
    # Superellipse in the axial plane: kidney-like bodies, rounder than a box and fuller than an ellipse.
    roundness = np.clip(1 - np.abs(lateral / fields.half_width) ** 3, 0, 1) ** np.float32(0.4)
    side = fields.half_width - np.abs(lateral)
    half_depth = np.maximum(fields.half_depth * roundness, 0.1)
    relative = fields.n / half_depth
    dome = np.clip(1 - relative**2, 0, 1)

    half_height = (spine.height.astype(np.float32) / 2)[fields.level]
    concavity = spine.endplate_concavity.astype(np.float32)[fields.level]
    ending = half_height * (1 - concavity * dome) - np.abs(fields.t)
    waist = 1 - 0.07 * np.clip(1 - (fields.t / half_height) ** 2, 0, 1)
    wall = half_depth * waist - np.abs(fields.n)
    vertebra = np.minimum(np.minimum(ending, wall), side)

    half_gap = (spine.disc_height.astype(np.float32) / 2)[fields.disc]
    # A disc fills the gap between the end plates: its surface is the bodies' own.
    bulge = spine.bulge.astype(np.float32)[fields.disc] * (fields.n > 0) + np.float32(0.8)
    rim = half_depth + bulge * np.clip(1 - (fields.disc_t / (half_gap + 1)) ** 2, 0, 1) - np.abs(fields.n)
    disc = np.minimum(np.minimum(-ending, rim), side)
    disc = np.where(fields.s < 0, np.minimum(disc, fields.s), disc)

    ends = spine.sacrum_ends.astype(np.float32)
    body = np.minimum(half_depth - np.abs(fields.n), side)
    sacrum = np.minimum(np.minimum(-fields.s, fields.s - ends[4]), body)
    coccyx = np.minimum(np.minimum(ends[4] - 2 - fields.s, fields.s - ends[5]), body)
    to_joint = np.min(np.abs(fields.s[..., None] - ends[:3]) - np.array([1.9, 1.2, 0.8], np.float32), axis=-1)
    sacral_disc = np.minimum(-to_joint, half_depth * 0.85 - np.abs(fields.n))
    return Bones(vertebra, disc, sacrum, sacral_disc, coccyx, relative)


def label_slice(fields: Fields, bones: Bones) -> np.ndarray:
    """Label map of the slice, (H, W) uint8, in the codes of MRSpineSeg; levels above T9 stay background."""
    label = np.zeros(fields.s.shape, np.uint8)
    label[bones.sacrum > 0] = SACRUM
    inside = (bones.disc > 0) & (fields.disc < NUM_LABELED)
    label[inside] = (FIRST_DISC + fields.disc[inside]).astype(np.uint8)
    inside = (bones.vertebra > 0) & (fields.level < NUM_LABELED) & (fields.s > 0)
    label[inside] = (FIRST_VERTEBRA + fields.level[inside]).astype(np.uint8)
    return label
