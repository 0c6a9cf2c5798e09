"""From the network's answer to labels on the scan's own pixels: the one way back, of argmax and decoded levels alike.

The way there is in :mod:`cps4_monai.data.scan_slices`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.label_upsampling import upsampled_argmax
from cps4_monai.data.resampling import AxisMap
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.logits import NEVER

MARGIN = 3  # pixels about the foreground: interpolating its border needs one, a renamed border two more
RENAMED_BORDER = 2.5  # pixels beside a renamed structure in which its new name's scores stand for the old one's


@dataclass(frozen=True)
class SliceCrop:
    """Class scores of part of a slice.

    Attributes:
        top: row of its first pixel.
        left: column of its first pixel.
        logits: (C, h, w) float32.
    """

    top: int
    left: int
    logits: torch.Tensor


@dataclass(frozen=True)
class ScanScores:
    """What the network says of a scan, on its own grid.

    >>> logits = torch.zeros(3, 20, 64, 32)
    >>> logits[1, 2, 20:30, 10:20] = 5.0  # L5 on the middle slice
    >>> scores = scores_of(logits)
    >>> scores.labels.shape, [crop is not None for crop in scores.crops], scores.crops[1].logits.shape
    ((3, 64, 32), [False, True, False], torch.Size([20, 16, 16]))

    Attributes:
        labels: (D, H, W) uint8, the argmax.
        crops: for each slice its scores about the foreground, None for a slice without any.
        num_classes: C.
    """

    labels: np.ndarray
    crops: tuple[SliceCrop | None, ...]
    num_classes: int

    def slices(self) -> Iterator[torch.Tensor]:
        """D slices (C, H, W), one at a time; outside the crops, where all is background, they are zero."""
        height, width = self.labels.shape[1:]
        for crop in self.crops:
            full = torch.zeros((self.num_classes, height, width))
            if crop is not None:
                rows, columns = crop.logits.shape[1:]
                full[:, crop.top : crop.top + rows, crop.left : crop.left + columns] = crop.logits.cpu()
            yield full


def scores_of(logits: torch.Tensor, unannotated: Sequence[int] = ()) -> ScanScores:
    """Labels and crops of logits that are there already.

    Args:
        logits: (D, C, H, W) float, any device; those of unannotated classes are overwritten.
        unannotated: codes that can never win.
    """
    logits[:, list(unannotated)] = NEVER
    winners = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
    crops = tuple(_crop(scores, winner) for scores, winner in zip(logits, winners, strict=True))
    return ScanScores(winners, crops, logits.shape[1])


def labels_on_scan(scores: ScanScores, labels: np.ndarray, grid: SagittalGrid, in_plane: InPlane) -> np.ndarray:
    """Labels on the scan's pixels: scores interpolated slice by slice, then argmax; background outside the network's.

    Args:
        scores: what the network said.
        labels: (D, H, W) the labels wanted on the network's grid: ``scores.labels``, or these with levels decoded.
        grid: the scan's slices.
        in_plane: the network's slice geometry.

    Returns:
        (D, H0, W0) uint8.

    Raises:
        ValueError: scores of another grid than these settings make of the scan.
    """
    height, width = in_plane.axis_maps(grid.slices_shape[1:], grid.spacing_mm[1:])
    expected = (grid.slices_shape[0], height.target_size, width.target_size)
    if scores.labels.shape != expected:
        raise ValueError(
            f"slices of the shape {scores.labels.shape}; expected {expected}, which these settings make of the scan: "
            "use the settings of the forward pass"
        )
    slices = np.zeros(grid.slices_shape, dtype=np.uint8)
    back = height.inverse(), width.inverse()
    for index, crop in enumerate(scores.crops):
        if crop is not None:
            _restore_slice(slices[index], crop, scores.labels[index], labels[index], *back)
    return slices


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


def _crop(logits: torch.Tensor, winner: np.ndarray) -> SliceCrop | None:
    rows, columns = (np.flatnonzero(winner.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, left = max(0, int(rows[0]) - MARGIN), max(0, int(columns[0]) - MARGIN)
    part = logits[:, top : int(rows[-1]) + MARGIN + 1, left : int(columns[-1]) + MARGIN + 1]
    return SliceCrop(top, left, part.clone(memory_format=torch.contiguous_format))
