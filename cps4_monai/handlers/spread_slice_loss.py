"""The validation loss of objectives that compare the slices of a batch with one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor


class SpreadSliceLoss(Metric):
    """Mean of a loss over batches of slices that are spread over the volumes, as batches of training are.

    A contrast within one volume would be one of near copies, and within a volume of one slice none at all. Slices are
    kept in main memory until all have come; n of them make ceil(n / batch_size) batches, the k-th of which takes every
    so-manyth slice from the k-th on. The batches are the same at each validation.

    Args:
        loss: (values (n, ...), label (n, 1, H, W)) -> scalar, mean over the n slices.
        batch_size: slices that are compared, at most.
        output_transform: engine output -> (values, label), lists of (K, D, ...) and (1, D, H, W), or batches of them,
            D slices each.

    Raises:
        ValueError: a batch size below 1.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        batch_size: int = 8,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more slices")
        self.loss = loss
        self.batch_size = batch_size
        super().__init__(output_transform=output_transform)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forgets all slices."""
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._sum = torch.zeros(())
        self._slices = torch.zeros(())

    @reinit__is_reduced
    def update(self, output: Sequence[Any]) -> None:
        """Keeps the slices of the given volumes."""
        for values, label in zip(*output, strict=True):
            self._where = values.device
            slices = (torch.as_tensor(each).transpose(0, 1).cpu() for each in (values, label))
            self._kept.extend(zip(*slices, strict=True))

    def compute(self) -> float:
        """Mean over the slices of all processes.

        Raises:
            NotComputableError: no slice came.
        """
        batches = -(-len(self._kept) // self.batch_size)
        for first in range(batches):
            values, labels = (
                torch.stack(each).to(self._where) for each in zip(*self._kept[first::batches], strict=True)
            )
            with torch.no_grad():
                self._sum += self.loss(values, labels).float().cpu() * len(values)
            self._slices += len(values)
        self._kept = []
        mean: float = self._mean()
        return mean

    @sync_all_reduce("_sum", "_slices")
    def _mean(self) -> float:
        if not self._slices > 0:
            raise NotComputableError("SpreadSliceLoss saw no slice; is the validation set empty?")
        return float(self._sum / self._slices)
