"""Test-time augmentation (`--tta`): the mean over views that differ as scanners do, in contrast and in scale."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

GAMMAS = (0.75, 1.33)
ZOOMS = (0.9, 1.1)


class ViewAveraging(nn.Module):
    """A network whose answer is the mean of five: the image, two contrasts (gamma) and two scales.

    Mirrored views are left out: the network has never seen a spine upside down or back to front.

    Args:
        network: (B, 1, H, W) in [0, 1] to logits (B, C, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) to the logarithm of the mean class probabilities (B, C, H, W)."""
        total = self._probabilities(image)
        for gamma in GAMMAS:
            total += self._probabilities(image.clamp(0, 1) ** gamma)
        size = image.shape[-2:]
        for zoom in ZOOMS:
            scaled = [max(1, round(n * zoom)) for n in size]
            view = F.interpolate(image, size=scaled, mode="bilinear", align_corners=False, antialias=True)
            total += F.interpolate(self._probabilities(view), size=size, mode="bilinear", align_corners=False)
        return (total / (1 + len(GAMMAS) + len(ZOOMS))).clamp_(min=1e-8).log_()

    def _probabilities(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(image)
        return logits.float().softmax(dim=1)
