"""From scores on the network's grid to one label volume on the scan's own pixels, levels decoded on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.label_upsampling import upsampled_argmax
from cps4_monai.data.resampling import AxisMap
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.inference.network_pass import ScanScores, SliceCrop
from cps4_monai.levels import LevelResult, LevelThresholds, decode_levels, label_confidence
from cps4_monai.levels.statistics import View

RENAMED_BORDER = 2.5  # pixels beside a renamed structure in which its new name's scores stand for the old one's


@dataclass(frozen=True)
class RestoredLabels:
    """A scan's labels.

    Attributes:
        slices: (D, H0, W0) uint8 on the scan's pixels.
        levels: how the levels were decoded; None for the plain argmax.
        confidence: mean probability of each label over its voxels, by code.
        view: (first H, end H, first W, end W) of the scan's slices that the network saw; None for all.
        seconds: time taken by each part.
    """

    slices: np.ndarray
    levels: LevelResult | None
    confidence: dict[int, float]
    view: View | None
    seconds: dict[str, float]


def restore_labels(
    scores: ScanScores,
    in_plane: InPlane,
    grid: SagittalGrid,
    anatomy: Anatomy,
    unannotated: Sequence[int] = (),
    *,
    raw: bool = False,
    thresholds: LevelThresholds | None = None,
) -> RestoredLabels:
    """Decodes the levels on the network's grid and brings one label volume back to the scan's.

    Args:
        scores: what the network said.
        in_plane: the network's slice geometry.
        grid: the scan's slices.
        anatomy: the classes.
        unannotated: codes that the training labels never showed.
        raw: leave the argmax as it is.
        thresholds: of the level logic.
    """
    started = time.perf_counter()
    height, width = in_plane.axis_maps(grid.slices_shape[1:], grid.spacing_mm[1:])
    spacing = (grid.spacing_mm[0], height.step * grid.spacing_mm[1], width.step * grid.spacing_mm[2])
    result = None
    if raw:
        labels, confidence = scores.labels, label_confidence(scores.labels, scores.slices(), anatomy, from_logits=True)
    else:
        result = decode_levels(
            scores.labels,
            scores.slices(),
            spacing,
            anatomy,
            from_logits=True,
            unannotated=unannotated,
            view=_view(height, width),
            thresholds=thresholds,
        )
        labels, confidence = result.labels, result.confidence
    decoded = time.perf_counter()
    slices = np.zeros(grid.slices_shape, dtype=np.uint8)
    back = height.inverse(), width.inverse()
    for index, crop in enumerate(scores.crops):
        if crop is not None:
            _restore_slice(slices[index], crop, scores.labels[index], labels[index], *back)
    seconds = {"levels": decoded - started, "restore": time.perf_counter() - decoded}
    view = _view(*back)
    whole = view is None or view == (0, slices.shape[1], 0, slices.shape[2])
    return RestoredLabels(slices, result, confidence, None if whole else view, seconds)


def _view(height: AxisMap, width: AxisMap) -> View | None:
    """The part of the target grid that shows the source; None where they do not meet."""
    rows, columns = (axis.inside().nonzero()[:, 0].tolist() for axis in (height, width))
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if rows and columns else None


def _restore_slice(
    out: np.ndarray, crop: SliceCrop, before: np.ndarray, after: np.ndarray, height: AxisMap, width: AxisMap
) -> None:
    """Fills one slice of the scan (H0, W0) from its crop of the network's grid."""
    rows, columns = crop.logits.shape[1:]
    part = slice(crop.top, crop.top + rows), slice(crop.left, crop.left + columns)
    wanted = np.ascontiguousarray(after[part])
    logits = renamed_scores(crop.logits, np.ascontiguousarray(before[part]), wanted)
    height = AxisMap(rows, height.target_size, height.start - crop.top, height.step)
    width = AxisMap(columns, width.target_size, width.start - crop.left, width.step)
    labels = upsampled_argmax(logits[None], height, width)[0].cpu().numpy()
    out[:] = only_neighbours(labels, wanted, height, width)


def renamed_scores(logits: torch.Tensor, before: np.ndarray, after: np.ndarray) -> torch.Tensor:
    """Scores whose argmax is ``after``: where a pixel changed its label, the two classes change places.

    Background beside a renamed structure changes places likewise, so that its border stays where it was.

    Args:
        logits: (C, h, w), any device.
        before: (h, w) their argmax.
        after: (h, w) the labels wanted.
    """
    changed = before != after
    if not changed.any():
        return logits
    source, target = before.astype(np.int64), after.astype(np.int64)
    if (changed & (before > 0) & (after > 0)).any():
        occupied = (before > 0) | (after > 0)
        distance, nearest = ndimage.distance_transform_edt(~occupied, return_indices=True)
        beside = ~occupied & (distance <= RENAMED_BORDER)
        near = tuple(nearest[:, beside])
        renamed = (before[near] > 0) & (after[near] > 0)
        source[beside] = np.where(renamed, before[near], 0)
        target[beside] = np.where(renamed, after[near], 0)
    rows, columns = (torch.from_numpy(i).to(logits.device) for i in np.nonzero(source != target))
    one, other = (torch.from_numpy(codes[source != target]).to(logits.device) for codes in (source, target))
    swapped = logits.clone()
    swapped[one, rows, columns] = logits[other, rows, columns]
    swapped[other, rows, columns] = logits[one, rows, columns]
    return swapped


def only_neighbours(labels: np.ndarray, coarse: np.ndarray, height: AxisMap, width: AxisMap) -> np.ndarray:
    """Upsampled labels, with the nearest one where interpolation let a class win that none of the neighbours has.

    Between two structures a third, which is second in both, may win: a sliver of another level.

    Args:
        labels: (H0, W0) from interpolated scores.
        coarse: (h, w) labels of the pixels that were interpolated.
        height: the rows of ``labels`` on those of ``coarse``.
        width: the columns likewise.
    """
    rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    if not len(rows):
        return labels
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    low_row, low_column = (axis.linear_pair()[0].numpy()[part] for axis, part in zip((height, width), box, strict=True))
    near = coarse[height.nearest().numpy()[box[0]]][:, width.nearest().numpy()[box[1]]]
    known = np.zeros(near.shape, dtype=bool)
    for down in (0, 1):
        for right in (0, 1):
            at = coarse[np.minimum(low_row + down, coarse.shape[0] - 1)]
            known |= labels[box] == at[:, np.minimum(low_column + right, coarse.shape[1] - 1)]
    labels[box] = np.where(known, labels[box], near)
    return labels
