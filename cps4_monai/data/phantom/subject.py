"""One phantom subject: a spine drawn, placed in a field of view, painted slice by slice and scanned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cps4_monai.data.phantom.arches import paint_arches
from cps4_monai.data.phantom.bones import Bones, label_slice, paint_bones, shape_bones
from cps4_monai.data.phantom.canal import paint_canal
from cps4_monai.data.phantom.centreline import Centreline, trace_centreline
from cps4_monai.data.phantom.fields import Fields, make_fields
from cps4_monai.data.phantom.scanner import coil_sensitivity, digitise, rician, saturation_band
from cps4_monai.data.phantom.soft_tissue import Body, draw_body, paint_soft_tissue
from cps4_monai.data.phantom.spine import Spine, draw_spine
from cps4_monai.data.phantom.upsample import smooth_noise


class Phantom(NamedTuple):
    """One subject.

    Attributes:
        image: T2w-like scan, (X, Y, Z) int16: right to left, anterior to posterior, superior to inferior.
        label: label map in the codes of MRSpineSeg, (X, Y, Z) uint8.
        affine: voxel indices to RAS+ mm, 4 x 4 float64, slightly oblique.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def make_phantom(
    subject_seed: int | Sequence[int],
    size: int | tuple[int, int] = 512,
    slices: int | None = None,
    sacrum: bool = True,
    variation: float = 1.0,
) -> Phantom:
    """Makes one subject.

    Args:
        subject_seed: seed; the same seed and arguments give the same voxels.
        size: pixels in plane, one number or (superior-inferior, anterior-posterior); the field of view in mm does not
            depend on it.
        slices: number of sagittal slices; None draws 12 to 18.
        sacrum: the sacrum is in view; False places the field of view above it.
        variation: how far size, tilt and the field of view stray from their means, from 0 (not at all) to 1.

    Raises:
        ValueError: fewer than 16 pixels or 1 slice, or a variation outside 0 to 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16 or (slices is not None and slices < 1):
        raise ValueError(
            f"phantom of {height} x {width} pixels and {slices} slices; expected at least 16 x 16 pixels and 1 slice"
        )
    if not 0 <= variation <= 1:
        raise ValueError(f"variation is {variation}; expected a number from 0 (all alike) to 1")
    rng = np.random.default_rng(subject_seed)
    spine = draw_spine(rng, variation)
    curve = trace_centreline(spine, tilt=np.deg2rad(variation * rng.uniform(-6, 6)))
    pixel_mm, down_mm, back_mm = _place_view(rng, spine, curve, height, width, sacrum, variation)
    drawn_slices, thickness_mm = int(rng.integers(12, 19)), rng.uniform(3.8, 4.8)
    count = drawn_slices if slices is None else slices
    x_mm = (np.arange(count) - (count - 1) / 2) * thickness_mm + rng.uniform(-2, 2)

    s, n = curve.coordinates(down_mm, back_mm)
    # Real outlines are never quite smooth: the coordinates themselves are bent a little, labels with them.
    fields = make_fields(spine, s + 0.5 * _bend(rng, s, pixel_mm), n + 0.6 * _bend(rng, s, pixel_mm), pixel_mm)
    body = draw_body(rng, fields, curve, down_mm, back_mm, count)
    sensitivity = coil_sensitivity(rng, body.skin) * saturation_band(rng, body.front)
    roots = np.clip(rng.normal(0.45, 0.4, 12), 0, 1).astype(np.float32)
    modic = np.where(rng.random(len(spine.height)) < 0.3 * spine.degeneration, rng.uniform(-0.35, 0.9), 0.0)

    image, label = np.empty((count, height, width), np.float32), np.empty((count, height, width), np.uint8)
    for index, x in enumerate(x_mm.tolist()):
        bones = shape_bones(fields, x)
        label[index] = label_slice(fields, bones)
        image[index] = _paint_slice(fields, body, bones, index, x, roots, modic) * sensitivity
    scan = digitise(rng, rician(rng, image, rng.uniform(0.012, 0.055)))
    to_file = (0, 2, 1)
    affine = _oblique_affine(rng, (thickness_mm, pixel_mm, pixel_mm), (count, width, height))
    return Phantom(scan.transpose(to_file).copy(), label.transpose(to_file).copy(), affine)


def _place_view(
    rng: np.random.Generator, spine: Spine, curve: Centreline, height: int, width: int, sacrum: bool, variation: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Pixel size and the positions of rows and columns: what of the spine is in view."""
    view_mm = 310 + variation * rng.uniform(-40, 40)
    pixel_mm = view_mm / height
    below_mm, cut, across = (
        74 + variation * rng.uniform(-46, 46),
        rng.uniform(0, 1),
        0.5 + variation * rng.uniform(-0.1, 0.1),
    )
    if sacrum:
        bottom = below_mm
    else:
        level = spine.vertebra_centre[0] + cut * (spine.vertebra_centre[2] - spine.vertebra_centre[0])
        on_sacrum = (curve.s <= 0) & (curve.s >= spine.sacrum_ends[4])
        reach = spine.depth[0] / 2 + 2
        highest = (curve.points[on_sacrum, 0] - reach * np.abs(curve.posterior[on_sacrum, 0])).min()
        bottom = min(curve.at(level)[0], highest - 2)
    down = bottom - view_mm + (np.arange(height) + 0.5) * pixel_mm
    in_view = (curve.points[:, 0] > down[0]) & (curve.points[:, 0] < down[-1]) & (curve.s > 0)
    middle = curve.points[in_view, 1].mean()
    back = middle + (np.arange(width) + 0.5 - across * width) * pixel_mm
    return pixel_mm, down, back


def _paint_slice(
    fields: Fields, body: Body, bones: Bones, index: int, x_mm: float, roots: np.ndarray, modic: np.ndarray
) -> np.ndarray:
    texture = body.texture[index]
    image = paint_soft_tissue(fields, body, index, x_mm)
    paint_canal(fields, image, x_mm, roots)
    paint_arches(fields, image, x_mm, texture, body.warp[index])
    paint_bones(fields, bones, image, texture, modic)
    image *= fields.cover(np.minimum(body.skin, body.belly), 1.5)
    return np.maximum(image, 0)


def _bend(rng: np.random.Generator, like: np.ndarray, pixel_mm: float, grid_mm: float = 8.0) -> np.ndarray:
    shape = (max(4, int(like.shape[0] * pixel_mm / grid_mm)), max(4, int(like.shape[1] * pixel_mm / grid_mm)))
    return smooth_noise(rng, shape, like.shape)


def _oblique_affine(
    rng: np.random.Generator, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> np.ndarray:
    """LPI-like affine, turned by a few degrees about each axis, the volume's middle near the origin."""
    a, b, c = np.deg2rad(rng.uniform(-5, 5, 3))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_y @ about_z @ np.diag(-np.array(spacing_mm))
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2 + rng.uniform(-15, 15, 3)
    return affine
