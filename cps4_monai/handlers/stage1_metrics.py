"""What the validation of stage 1 reports: the loss on the validation slices, and the prompt map of each slice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.transforms import MapTransform
from torch import Tensor, nn


class VolumeLoss(Metric):
    """Mean over all slices of a loss that takes batches of slices, for evaluators that run on whole volumes.

    Args:
        loss: (logits (n, C, h, w), label (n, 1, H, W)) -> scalar, mean over the n slices.
        output_transform: engine output -> (pred, label), lists of (C, D, h, w) and (1, D, H, W), or batches of them.
    """

    def __init__(self, loss: nn.Module, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        self.loss = loss
        super().__init__(output_transform=output_transform)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forgets all slices."""
        self._sum = torch.zeros(())
        self._slices = 0

    @reinit__is_reduced
    def update(self, output: Sequence[Any]) -> None:
        """Adds the slices of the given volumes."""
        for pred, label in zip(*output, strict=True):
            slices = pred.shape[1]
            with torch.no_grad():
                value = self.loss(pred.transpose(0, 1), label.transpose(0, 1))
            self._sum = self._sum + value.detach().float().cpu() * slices
            self._slices += slices

    @sync_all_reduce("_sum", "_slices")
    def compute(self) -> float:
        """Mean over the slices.

        Raises:
            NotComputableError: no slice came.
        """
        if self._slices == 0:
            raise NotComputableError("VolumeLoss saw no slice; is the validation set empty?")
        return float(self._sum) / self._slices


class PromptMapd(MapTransform):
    """Adds y_text (1, D, H, W) as ``prompt_map`` to an item of attention logits (C, D, h, w) and its ``label`` (eq. 3).

    Args:
        keys: the attention logits, one key.
        mapper: :class:`cps4_monai.prompt_map.PromptMapper`.
    """

    def __init__(self, keys: str, mapper: Callable[[Tensor, Sequence[int]], Tensor]) -> None:
        super().__init__(keys)
        self.mapper = mapper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        logits = d[self.keys[0]]  # (C, D, h, w)
        prompt_map = self.mapper(logits.transpose(0, 1), tuple(d["label"].shape[-2:]))  # (D, 1, H, W)
        d["prompt_map"] = prompt_map.transpose(0, 1).clamp(min=0)
        return d
