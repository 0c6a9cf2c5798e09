"""A tiny assistant on pictures of 64 x 32 pixels: four classes, bands whose grey value tells which they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cps4_monai.vessa import Assistant, SmallReference, SmallSam, StoredPrompts, TemplateBank
from cps4_monai.vision.encoder import VisionEncoder

CLASSES, SIZE, GRID, WIDTH = 4, (64, 32), (8, 4), 32


def make_bands(seed: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (count, 1, 64, 32) with their labels: three bands of classes 1 to 3, at another height in each."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.zeros(count, 1, *SIZE), torch.zeros(count, 1, *SIZE, dtype=torch.uint8)
    starts = torch.randint(2, 10, (count, 3), generator=generator)
    for index in range(count):
        for code in (1, 2, 3):
            top = (code - 1) * 20 + int(starts[index, code - 1])
            images[index, :, top : top + 10, 8:24] = 0.25 * code
            labels[index, :, top : top + 10, 8:24] = code
    return (images + 0.02 * torch.rand(images.shape, generator=generator)).clamp(0, 1), labels


@pytest.fixture(scope="session")
def bands() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Function ``bands(seed, count)``: pictures with three bands, and their labels."""
    return make_bands


@pytest.fixture
def make() -> Callable[..., Assistant]:
    """Function that makes an assistant; arguments of :class:`Assistant` replace the tiny ones."""

    def build(**parts: Any) -> Assistant:
        torch.manual_seed(0)
        encoder = VisionEncoder(
            "vit_tiny_patch16_224", SIZE, pretrained=False, patch_size=8, embed_dim=WIDTH, depth=1, num_heads=2
        )
        images, labels = make_bands(0)
        given = {
            "image_encoder": encoder,
            "prompts": StoredPrompts(torch.randn(CLASSES, 12)),
            "reference": SmallReference(WIDTH, 12, CLASSES, WIDTH, 1, 2, dropout=0.0),
            "mask_decoder": SmallSam(WIDTH, CLASSES, WIDTH, 2, 1, 1, dropout=0.0),
            "bank": TemplateBank(images, labels, [0, 0, 1, 2], CLASSES, GRID),
            **parts,
        }
        return Assistant(**given)

    return build
