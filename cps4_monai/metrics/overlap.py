"""Voxel counts that every overlap score is made of, for all classes and slices in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from cps4_monai.anatomy import NOT_ANNOTATED


class OverlapCounts(NamedTuple):
    """Voxels per class; each field has the shape (..., C), int64.

    >>> counts = overlap_counts(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 255]]), num_classes=2)
    >>> counts.pred.tolist(), counts.label.tolist()  # what nobody annotated is counted nowhere
    ([[1, 1]], [[1, 1]])
    """

    intersection: torch.Tensor
    pred: torch.Tensor
    label: torch.Tensor

    def total(self) -> OverlapCounts:
        """Counts of the whole volume: (S, C) -> (C,)."""
        return OverlapCounts(*(field.sum(dim=0) for field in self))


def check_unannotated(unannotated: Sequence[int], num_classes: int) -> tuple[int, ...]:
    """Sorted codes of the classes that no label ever holds.

    Raises:
        ValueError: the background or a code outside 1 to C-1 is named.
    """
    codes = tuple(sorted({int(code) for code in unannotated}))
    wrong = [code for code in codes if not 1 <= code < num_classes]
    if wrong:
        raise ValueError(
            f"unannotated holds {wrong}; expected codes from 1 to {num_classes - 1} (0 is always annotated)"
        )
    return codes


def overlap_counts(
    pred: torch.Tensor, label: torch.Tensor, num_classes: int, unannotated: Sequence[int] = ()
) -> OverlapCounts:
    """Counts of intersection, prediction and label per slice and class, with one bincount on the tensors' device.

    A class in ``unannotated`` does not exist for the score: its voxels count as background on both sides. So a
    predicted sacrum costs nothing where the label, which could not name it, says background, and is a missed voxel
    of L5 where the label says L5. Voxels that the label says nobody annotated (255) are counted nowhere.

    Args:
        pred: label map (S, ...), integers from 0 to C-1; the first axis runs over the slices.
        label: label map of the same shape; 255 where nobody annotated.
        num_classes: C, background included.
        unannotated: codes of classes that are in view but never labeled.

    Returns:
        Counts of shape (S, C).

    Raises:
        TypeError: a map is not of an integer type.
        ValueError: shapes differ, or a value is not a class.
    """
    codes = check_unannotated(unannotated, num_classes)
    if pred.shape != label.shape:
        raise ValueError(
            f"pred has the shape {tuple(pred.shape)} and label {tuple(label.shape)}; bring both onto one grid first"
        )
    if pred.ndim < 2:
        raise ValueError(f"label maps have the shape {tuple(pred.shape)}; expected (S, ...) with slices first")
    for name, tensor in (("pred", pred), ("label", label)):
        if tensor.is_floating_point() or tensor.is_complex():
            raise TypeError(f"{name} is {tensor.dtype}; expected an integer label map (argmax of the logits)")
    truth, pred = label.long(), pred if pred.dtype == torch.uint8 else pred.long()  # torch counts few unsigned types
    unknown = truth == NOT_ANNOTATED
    for name, tensor in (("pred", pred), ("label", truth.masked_fill(unknown, 0))):
        if tensor.numel():
            low, high = (int(v) for v in torch.aminmax(tensor))
            if low < 0 or high >= num_classes:
                raise ValueError(f"{name} holds values from {low} to {high}; expected 0 to {num_classes - 1}")
    slices, classes = pred.shape[0], num_classes
    index = truth.flatten(1).mul(classes).add_(pred.flatten(1))
    index += torch.arange(slices, device=index.device)[:, None] * classes**2
    index.masked_fill_(unknown.flatten(1), slices * classes**2)  # one bin behind all others, which is dropped
    joint = torch.bincount(index.reshape(-1), minlength=slices * classes**2 + 1)[:-1].view(slices, classes, classes)
    if codes:
        unseen = list(codes)
        joint[:, 0] += joint[:, unseen].sum(dim=1)
        joint[:, unseen] = 0
        joint[:, :, 0] += joint[:, :, unseen].sum(dim=2)
        joint[:, :, unseen] = 0
    return OverlapCounts(joint.diagonal(dim1=1, dim2=2).clone(), joint.sum(dim=1), joint.sum(dim=2))


def dice_score(counts: OverlapCounts) -> torch.Tensor:
    """Dice = 2 I / (P + L), float64, shape of the counts; NaN where neither prediction nor label has the class."""
    return 2.0 * counts.intersection.double() / (counts.pred + counts.label).double()


def iou_score(counts: OverlapCounts) -> torch.Tensor:
    """IoU = I / (P + L - I), float64, shape of the counts; NaN where neither prediction nor label has the class."""
    return counts.intersection.double() / (counts.pred + counts.label - counts.intersection).double()
