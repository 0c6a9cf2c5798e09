"""From the assistant's logits on its own grid to probabilities and codes of every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.losses.semi_supervised import mask_unannotated


class LabelMap:
    """The strongest class of each pixel, after bilinear upsampling; in the place of a prompt mapper.

    Args:
        unannotated: codes that are in view but never labeled; they never win.
    """

    def __init__(self, unannotated: Sequence[int] = ()) -> None:
        self.unannotated = tuple(unannotated)

    @torch.no_grad()
    def probabilities(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, H, W) float32, 0 in unannotated classes, of logits (B, C, h, w) for pictures of this (H, W)."""
        with torch.autocast(logits.device.type, enabled=False):
            full = F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)
            return mask_unannotated(full, self.unannotated).softmax(dim=1)

    def __call__(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """(B, 1, H, W) int64 codes of logits (B, C, h, w) for pictures of this (H, W)."""
        return self.probabilities(logits, size).argmax(dim=1, keepdim=True)
