"""Cross-entropy and soft Dice of logits on a coarser grid than the label's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cps4_monai.losses.dice import soft_dice
from cps4_monai.losses.semi_supervised import supervised_cross_entropy


class UpsampledSegmentationLoss(nn.Module):
    """CE + dice_weight * soft Dice, on logits upsampled to the size of the label.

    Args:
        unannotated: codes in view but never labeled.
        dice_weight: of the soft Dice.

    Raises:
        ValueError: a negative weight.
    """

    source: ClassVar[str] = "cross-entropy, and soft Dice after Milletari et al., 3DV 2016"

    def __init__(self, unannotated: Sequence[int] = (), dice_weight: float = 1.0) -> None:
        super().__init__()
        if dice_weight < 0:
            raise ValueError(f"dice_weight is {dice_weight}; expected a number of at least 0. Fix: choose one")
        self.unannotated = tuple(unannotated)
        self.dice_weight = dice_weight

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar, float32.

        Args:
            logits: (B, C, h, w) over the whole picture.
            label: (B, 1, H, W) codes.
        """
        with torch.autocast(logits.device.type, enabled=False):
            full = F.interpolate(logits.float(), size=label.shape[2:], mode="bilinear", align_corners=False)
            loss = supervised_cross_entropy(full, label, self.unannotated)
            return loss + self.dice_weight * soft_dice(full, label, self.unannotated)
