"""Which classes a labeled slice shows, where on the grid of the patches, and which slices show the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def shown_classes(label: Tensor, num_classes: int, grid_size: Sequence[int], unannotated: Sequence[int] = ()) -> Tensor:
    """(B, C, h, w) bool: the annotated classes of which a cell holds a pixel of the label map (B, 1, H, W).

    ``.flatten(2).any(2)`` of it is what each slice shows, ``.any(1)`` the cells in which anything is annotated.
    """
    codes = torch.arange(num_classes, device=label.device).view(1, -1, 1, 1)
    kept = annotated_classes(num_classes, unannotated, label.device).view(1, -1, 1, 1)
    pixels = ((label == codes) & kept).float()
    return F.adaptive_max_pool2d(pixels, (int(grid_size[0]), int(grid_size[1]))) > 0


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
