"""Smaller volumes for training from few labels: the central sagittal slices, and half the in-plane resolution."""

from __future__ import annotations

import numpy as np

from cps4_monai.data.sagittal import SagittalGrid


def central_slices(
    shape: tuple[int, int, int], affine: np.ndarray, width_mm: float, canal: np.ndarray | None = None
) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """The consecutive sagittal slices whose centres lie within a width about the spinal canal; at least the nearest.

    Args:
        shape: voxels, (X, Y, Z), any orientation.
        affine: (4, 4), voxel indices to RAS+ mm.
        width_mm: from left to right; 0 keeps one slice.
        canal: (X, Y, Z) bool; None, or empty: the middle of the volume takes its place.

    Returns:
        Three slices to index the volume with, and the affine of what they give.

    Raises:
        ValueError: a negative width.
    """
    if width_mm < 0:
        raise ValueError(f"width_mm is {width_mm}; expected 0 (one slice) or more")
    grid = SagittalGrid.from_affine(shape, affine)
    axis = grid.axes[0]
    count = shape[axis]
    centre = (count - 1) / 2 if canal is None or not canal.any() else float(np.nonzero(canal)[axis].mean())
    away = np.abs(np.arange(count) - centre)
    kept = np.flatnonzero((away * grid.spacing_mm[0] <= width_mm / 2) | (np.arange(count) == away.argmin()))
    index = [slice(None)] * 3
    index[axis] = slice(int(kept[0]), int(kept[-1]) + 1)
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] += moved[:3, axis] * kept[0]
    return (index[0], index[1], index[2]), moved


def halve_in_plane(
    image: np.ndarray, affine: np.ndarray, label: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Half the in-plane resolution of sagittal slices, in blocks of 2 x 2 pixels; an odd last row or column is dropped.

    The image gets the block's mean, rounded to even where its type is of whole numbers; the label map gets the code
    that most of the four have, the larger one where two are equal.

    Args:
        image: (X, Y, Z), any orientation.
        affine: (4, 4), voxel indices to RAS+ mm.
        label: (X, Y, Z) codes, or None.

    Returns:
        Image, label map or None, and their affine.
    """
    axes = SagittalGrid.from_affine(image.shape, affine).axes[1:]  # superior-inferior, anterior-posterior
    blocks = _blocks(image, axes)
    mean = blocks.mean(axis=-1, dtype=np.float64)
    small = (np.round(mean) if np.issubdtype(image.dtype, np.integer) else mean).astype(image.dtype)
    halved = np.array(affine, dtype=np.float64)
    for axis in axes:
        halved[:3, 3] += halved[:3, axis] / 2  # centre of the first block
        halved[:3, axis] *= 2
    return small, None if label is None else _majority(_blocks(label, axes)), halved


def _blocks(volume: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """(X', Y', Z', 4): the four voxels of each block."""
    starts = [(0, 1) if axis in axes else (0,) for axis in range(3)]
    even = tuple(slice(0, n // 2 * 2 if axis in axes else n) for axis, n in enumerate(volume.shape))
    steps = [2 if axis in axes else 1 for axis in range(3)]
    cropped = volume[even]
    return np.stack(
        [cropped[x :: steps[0], y :: steps[1], z :: steps[2]] for x in starts[0] for y in starts[1] for z in starts[2]],
        axis=-1,
    )


def _majority(codes: np.ndarray) -> np.ndarray:
    """The most frequent of four codes (last axis), the larger one of equally frequent ones."""
    first, second, third, last = np.moveaxis(np.sort(codes, axis=-1), -1, 0)
    single = np.where(first == second, first, last)
    majority: np.ndarray = np.where(third == last, last, np.where(second == third, second, single))
    return majority
