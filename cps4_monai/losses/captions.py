"""Which classes a labeled slice shows, its caption, and which slices have the same one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shown_classes(label: Tensor, num_classes: int, unannotated: Sequence[int] = ()) -> Tensor:
    """(B, C) bool: the classes of which a label map (B, 1, H, W) holds a pixel; never an unannotated one."""
    codes = torch.arange(num_classes, device=label.device).view(1, -1, 1)
    return (label.flatten(2) == codes).any(2) & annotated_classes(num_classes, unannotated, label.device)


def annotated_classes(num_classes: int, unannotated: Sequence[int], device: torch.device) -> Tensor:
    """(C,) bool: the annotated classes."""
    codes = torch.arange(num_classes, device=device)
    annotated = codes >= 0
    for code in unannotated:  # one by one: a list of codes would be copied to the device
        annotated = annotated & (codes != code)
    return annotated


def equal_captions(present: Tensor) -> Tensor:
    """(B, B) bool: slices that show the same classes (B, C); one that shows none equals none, not even itself."""
    named = present.any(1)
    return (present[:, None] == present[None]).all(2) & named & named[:, None]
