"""Soft Dice against hard targets and against predictions, and its mean or sum with the cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cps4_monai.losses.semi_supervised import IGNORE, mask_unannotated, supervised_cross_entropy, target_codes
from cps4_monai.losses.whole_batch import whole_sum


def soft_dice(
    logits: Tensor,
    code_map: Tensor,
    unannotated: Sequence[int] = (),
    where: Tensor | None = None,
    smooth: float = 1e-5,
) -> Tensor:
    """1 - Dice of the softmax, mean over the classes that the targets show.

    dice_c = (2 sum p_c y_c + smooth) / (sum p_c + sum y_c + smooth), sums over the batch and the pixels that count. A
    class without a target pixel is no part of the mean: it would add a constant, or punish every stray pixel.

    Args:
        logits: (B, C, H, W).
        code_map: class codes (B, 1, H, W); -1 (`IGNORE`), 255 and unannotated codes are left out.
        unannotated: codes in view but never labeled.
        where: (B, 1, H, W) bool, or broadcastable to it: the pixels that count; None: all.
        smooth: keeps the quotient defined.

    Returns:
        Scalar, float32, in [0, 1]; 0 where no pixel counts.

    Raises:
        ValueError: shapes that do not fit.
    """
    codes = target_codes(code_map, logits, unannotated)
    counts = codes != IGNORE
    if where is not None:
        counts = counts & where[:, 0]
    with torch.autocast(logits.device.type, enabled=False):
        probs = mask_unannotated(logits, unannotated).softmax(dim=1) * counts.unsqueeze(1)
        classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        target = (codes.unsqueeze(1) == classes) & counts.unsqueeze(1)  # one_hot() would read its range on the host
        overlap = whole_sum((probs * target).sum((0, 2, 3)))
        of_target = whole_sum(target.sum((0, 2, 3)))
        dice = (2 * overlap + smooth) / (whole_sum(probs.sum((0, 2, 3))) + of_target + smooth)
        present = (of_target > 0).to(dice.dtype)
        return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def soft_dice_distance(probs: Tensor, reference: Tensor, where: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """1 - Dice of two softmaxes, 0 where they are equal: mean over the classes that the reference calls somewhere.

    dice_c = (2 sum p_c q_c + smooth) / (sum p_c^2 + sum q_c^2 + smooth), sums over the batch and the pixels that count.
    The squares make equal predictions the minimum, which they are not for :func:`soft_dice`.

    Args:
        probs: (B, C, H, W) float32.
        reference: alike, without gradient.
        where: (B, 1, H, W) bool: the pixels that count; None: all.
        smooth: keeps the quotient defined.

    Returns:
        Scalar in [0, 1]; 0 where no pixel counts.
    """
    counts = torch.ones_like(reference[:, :1], dtype=torch.bool) if where is None else where
    classes = torch.arange(probs.shape[1], device=probs.device).view(1, -1, 1, 1)
    called = whole_sum(((reference.argmax(dim=1, keepdim=True) == classes) & counts).sum((0, 2, 3))) > 0
    probs, reference = probs * counts, reference * counts
    overlap = whole_sum((probs * reference).sum((0, 2, 3)))
    sizes = whole_sum(probs.square().sum((0, 2, 3)) + reference.square().sum((0, 2, 3)))
    dice = (2 * overlap + smooth) / (sizes + smooth)
    return ((1 - dice) * called).sum() / called.sum().clamp(min=1)


def segmentation_loss(
    logits: Tensor,
    code_map: Tensor,
    unannotated: Sequence[int] = (),
    where: Tensor | None = None,
    dice_weight: float = 0.5,
) -> Tensor:
    """(1 - dice_weight) * cross-entropy + dice_weight * :func:`soft_dice`; what has no weight is not computed.

    Args:
        logits: (B, C, H, W).
        code_map: class codes (B, 1, H, W).
        unannotated: codes in view but never labeled.
        where: pixels that count, see :func:`soft_dice`.
        dice_weight: in [0, 1].

    Returns:
        Scalar, float32.
    """
    terms = []
    if dice_weight < 1:
        terms.append((1 - dice_weight) * supervised_cross_entropy(logits, code_map, unannotated, where))
    if dice_weight > 0:
        terms.append(dice_weight * soft_dice(logits, code_map, unannotated, where))
    return torch.stack(terms).sum()


# What a method may learn from labels by, see :func:`supervision_loss`.
SUPERVISION = ("ce+dice", "ce", "dice")


def supervision_loss(logits: Tensor, label: Tensor, unannotated: Sequence[int] = (), kind: str = "ce+dice") -> Tensor:
    """Cross-entropy plus :func:`soft_dice`, or one of the two: a sum, where :func:`segmentation_loss` is a mean.

    Args:
        logits: (B, C, H, W).
        label: class codes (B, 1, H, W).
        unannotated: codes in view but never labeled.
        kind: of `SUPERVISION`.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: shapes that do not fit.
    """
    terms = []
    if kind != "dice":
        terms.append(supervised_cross_entropy(logits, label, unannotated))
    if kind != "ce":
        terms.append(soft_dice(logits, label, unannotated))
    return torch.stack(terms).sum()


def check_supervision(kind: str) -> None:
    """Refuses what :func:`supervision_loss` does not know.

    Raises:
        ValueError: as said.
    """
    if kind not in SUPERVISION:
        raise ValueError(f"supervision is {kind!r}; expected one of {list(SUPERVISION)}")


def check_dice_weight(dice_weight: float) -> None:
    """Refuses a share outside [0, 1].

    Raises:
        ValueError: as said.
    """
    if not 0 <= dice_weight <= 1:
        raise ValueError(f"dice_weight is {dice_weight}; expected a share from 0 (cross-entropy alone) to 1 (Dice)")
