"""Places in a picture as vectors, the same for the cells of a grid and for the corners of a prompt."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierPositions(nn.Module):
    """Sine and cosine of random projections of a place (Tancik et al., NeurIPS 2020; SAM's prompt encoder has it).

    Args:
        width: of a vector, an even number.

    Raises:
        ValueError: an odd width.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width is {width}; expected an even number. Fix: choose one, as 256")
        self.register_buffer("frequencies", torch.randn(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        """(..., width) float32 of places (..., 2), shares of the picture in [0, 1], x before y."""
        with torch.autocast(places.device.type, enabled=False):  # a bfloat16 holds three digits of an angle
            angles = 2 * math.pi * ((2 * places.float() - 1) @ self.frequencies)
            return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """(height * width, width of a vector): centres of the cells of a grid, row by row."""
        device = self.frequencies.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(y, x, indexing="ij")
        return self(torch.stack((x, y), dim=-1).flatten(0, 1))
