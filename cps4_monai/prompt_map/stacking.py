"""Stacking the binary maps of all classes into one label map (row 7 of the settings)."""

from __future__ import annotations

import torch

STACKINGS = ("masked_argmax", "argmax", "ignore_empty")
IGNORED = -1


def stack_prompt_maps(scores: torch.Tensor, thresholds: torch.Tensor, stacking: str = "masked_argmax") -> torch.Tensor:
    """One class per pixel, out of one map per class.

    A class holds a pixel where its score is above its threshold. A threshold of +infinity or NaN drops the class.

    Args:
        scores: (B, C, H, W), comparable between classes.
        thresholds: (B, C).
        stacking: "masked_argmax", the highest score among the classes that hold the pixel, none: background (0);
            "ignore_empty", the same, none: -1; "argmax", the highest score among all classes that are not dropped.

    Returns:
        (B, 1, H, W) int64 channel indices, or -1.

    Raises:
        ValueError: an unknown stacking, or shapes that do not fit.
    """
    if stacking not in STACKINGS:
        raise ValueError(f"stacking is {stacking!r}; expected one of {list(STACKINGS)}")
    if scores.ndim != 4 or thresholds.shape != scores.shape[:2]:
        raise ValueError(
            f"scores is {tuple(scores.shape)} and thresholds {tuple(thresholds.shape)}; expected (B, C, H, W), (B, C)"
        )
    limits = thresholds[..., None, None]
    if stacking == "argmax":
        limits = torch.where(limits < torch.inf, -torch.inf, limits)
    best, index = torch.where(scores > limits, scores, -torch.inf).max(dim=1, keepdim=True)
    return torch.where(best > -torch.inf, index, IGNORED if stacking == "ignore_empty" else 0)
