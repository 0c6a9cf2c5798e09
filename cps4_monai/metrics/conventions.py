"""Three ways to average Dice and IoU, always reported together because they differ by more than ten points.

* (a) "paper": slice by slice, background included, mean over the classes that are non-empty in label or prediction;
  then over all slices of all subjects.
* (b) headline: per subject in 3-D, mean over the foreground classes present in the label; then over subjects.
* (c) penalised: as (b), over the foreground classes in label or prediction: a missed or false class scores 0.

Classes in ``unannotated`` and voxels that nobody annotated (255 in the label) enter none of them (see
:func:`cps4_monai.metrics.overlap.overlap_counts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cps4_monai.metrics.overlap import OverlapCounts, dice_score, iou_score, overlap_counts

CONVENTIONS = ("a", "b", "c")
CONVENTION_TITLES = {
    "a": "slice-wise, background included (the paper's)",
    "b": "per subject in 3-D, classes in the label",
    "c": "as b, missed and false classes count 0",
}


@dataclass(frozen=True)
class SubjectScores:
    """Scores of one subject.

    Attributes:
        counts: voxels of the whole volume, (C,).
        dice: by class in 3-D, (C,); NaN where neither label nor prediction has the class.
        iou: the same.
        dice_by: convention -> the subject's mean Dice; NaN where the convention has nothing to average.
        iou_by: the same for IoU.
        num_slices: slices that enter (a); the weight of this subject's (a) in the mean over all slices.
    """

    counts: OverlapCounts
    dice: torch.Tensor
    iou: torch.Tensor
    dice_by: dict[str, float]
    iou_by: dict[str, float]
    num_slices: int


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the last axis of the entries in ``mask``; NaN where there is none."""
    return torch.where(mask, values, torch.zeros_like(values)).sum(dim=-1) / mask.sum(dim=-1)


def slice_means(counts: OverlapCounts) -> tuple[torch.Tensor, torch.Tensor]:
    """Convention (a) per slice: counts (S, C) -> Dice (S,) and IoU (S,), over classes in label or prediction.

    NaN for a slice of which nothing is annotated.
    """
    seen = (counts.pred + counts.label) > 0
    return masked_mean(dice_score(counts), seen), masked_mean(iou_score(counts), seen)


def class_masks(counts: OverlapCounts) -> dict[str, torch.Tensor]:
    """Which classes enter conventions (b) and (c): counts (..., C) -> {"b": bool (..., C), "c": bool (..., C)}."""
    foreground = torch.arange(counts.label.shape[-1], device=counts.label.device) > 0
    return {"b": (counts.label > 0) & foreground, "c": (counts.pred + counts.label > 0) & foreground}


def subject_scores(
    pred: torch.Tensor, label: torch.Tensor, num_classes: int, unannotated: Sequence[int] = ()
) -> SubjectScores:
    """Scores of one subject's label maps by all three conventions.

    Args:
        pred: label map (D, H, W), sagittal slices first, integers from 0 to C-1.
        label: label map of the same shape; 255 where nobody annotated.
        num_classes: C, background included.
        unannotated: codes of classes that are in view but never labeled.

    Raises:
        TypeError, ValueError: as :func:`cps4_monai.metrics.overlap.overlap_counts`.
    """
    per_slice = overlap_counts(pred, label, num_classes, unannotated)
    counts = per_slice.total()
    dice, iou = dice_score(counts), iou_score(counts)
    dice_a, iou_a = slice_means(per_slice)
    dice_by, iou_by = {"a": float(dice_a.nanmean())}, {"a": float(iou_a.nanmean())}
    for convention, mask in class_masks(counts).items():
        dice_by[convention] = float(masked_mean(dice, mask))
        iou_by[convention] = float(masked_mean(iou, mask))
    return SubjectScores(counts, dice, iou, dice_by, iou_by, num_slices=int(dice_a.isfinite().sum()))
