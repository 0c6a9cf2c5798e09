"""A small stage 1: a model whose patches are blind to one another, labeled batches, training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.methods import PromptedPretraining
from cps4_monai.precision import Precision

CLASSES, SIZE, GRID, WIDTH = 5, 16, 4, 6


class LocalModel(nn.Module):
    """A vision-language model whose patches see nothing of one another: a gradient in a pixel is that of its cell."""

    num_classes, grid_size, embedding_dim = CLASSES, (GRID, GRID), WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, SIZE // GRID, SIZE // GRID)
        self.prompts = nn.Parameter(torch.randn(CLASSES, WIDTH))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-2.5))

    def head(self) -> nn.Module:
        return nn.Linear(WIDTH, WIDTH)

    def forward(self, image: torch.Tensor, embeddings: bool = False) -> Any:
        patches, prompts = F.normalize(self.patches(image), dim=1), F.normalize(self.prompts, dim=1)
        if embeddings:
            return patches, prompts
        cosines = torch.einsum("ce,behw->bchw", prompts, patches)
        return self.log_scale.exp() * cosines + self.logit_bias


class Loader(list):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def batches(count: int = 4) -> Loader:
    generator = torch.Generator().manual_seed(0)

    def batch() -> dict[str, Any]:
        label = torch.zeros(4, 1, SIZE, SIZE, dtype=torch.uint8)
        codes = torch.randint(0, CLASSES, (4, 1, GRID, GRID), generator=generator).to(torch.uint8)
        codes[0].clamp_(max=1), codes[1].clamp_(max=2)  # captions that differ
        label[:] = F.interpolate(codes.float(), SIZE).to(torch.uint8)
        label[:2, :, ::4], label[2:, :, ::2], label[2:, :, :, ::2] = 0, 0, 0  # structures smaller than a cell
        return {"labeled": {"image": torch.rand(4, 1, SIZE, SIZE, generator=generator), "label": label}}

    return Loader(batch() for _ in range(count))


def train(
    method: PromptedPretraining, loader: Sequence[Any], precision: Precision | None = None
) -> list[dict[str, torch.Tensor]]:
    total, seen = method.total_updates, []
    trainer = SemiSupervisedTrainer("cpu", 1, Loader(loader), method, precision=precision)
    method.total_updates = total
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output[0]))
    trainer.run()
    return seen


def step(method: PromptedPretraining, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return method.losses(method.forward(batch), batch)


@pytest.fixture
def stage1() -> SimpleNamespace:
    """``LocalModel``, ``batches``, ``train`` and ``step`` of this file."""
    return SimpleNamespace(LocalModel=LocalModel, Loader=Loader, batches=batches, train=train, step=step)
