"""A finer grid from the same network: it looks again, moved by a part of a patch, and the answers are averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def shifted_views(
    answer: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, patch: tuple[int, int], shifts: int
) -> torch.Tensor:
    """Answers of ``shifts`` x ``shifts`` views, each moved by 1 / ``shifts`` of a patch, on the grid of those parts.

    Each part of a patch gets the mean of the patches that cover it, one a view. At the edges a view sees the last
    pixels repeated, and gives its first patch to the parts before it.

    Args:
        answer: images to one value a patch, (B, 1, H, W) to (B, C, h, w).
        images: (B, 1, H, W).
        patch: pixels of a patch along H and W, multiples of ``shifts``.
        shifts: views along each axis, 1 or more.

    Returns:
        (B, C, shifts * h, shifts * w).
    """
    total: torch.Tensor | None = None
    down, right = (size // shifts for size in patch)
    for rows in range(shifts):
        for columns in range(shifts):
            y, x = rows * down, columns * right
            moved = F.pad(images, (0, x, 0, y), mode="replicate")[..., y:, x:]
            parts = answer(moved).repeat_interleave(shifts, dim=2).repeat_interleave(shifts, dim=3)
            height, width = parts.shape[2:]
            back = F.pad(parts, (columns, 0, rows, 0), mode="replicate")[..., :height, :width]
            total = back if total is None else total + back
    assert total is not None
    return total / shifts**2
