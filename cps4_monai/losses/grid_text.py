"""L_text on the grid of the attention maps, where their blurred outline costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.attention_maps import ACTIVATIONS
from cps4_monai.losses.attention import log_softmax_and_complement
from cps4_monai.losses.semi_supervised import attention_maps, check_same_slices, mask_unannotated

POOLINGS = ("max", "average")


class GridTextLoss:
    """Student's probabilities, pooled to (h, w), held to the attention maps there.

    Binary cross-entropy of each annotated class, mean over cells, classes and slices. A is the target as it is, between
    0 and 1, and the pooling is that of stage 1's masks (row 2), so that both say the same of a cell: structures by
    their maximum, background by its mean, if ``pooling="max"``; all by their mean (the share of the cell that a class
    takes, as bilinear downscaling gives it), if ``pooling="average"``.

    Args:
        activation: "sigmoid" or "softmax" over the annotated classes, as in stage 1.
        pooling: "max" or "average".

    Raises:
        ValueError: an unknown option.
    """

    def __init__(self, activation: str = "sigmoid", pooling: str = "max") -> None:
        for name, value, allowed in (("activation", activation, ACTIVATIONS), ("pooling", pooling, POOLINGS)):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {list(allowed)}")
        self.activation = activation
        self.pooling = pooling

    def __call__(self, logits: Tensor, attention_logits: Tensor, unannotated: Sequence[int] = ()) -> Tensor:
        """Scalar float32.

        Args:
            logits: student, (B, C, H, W).
            attention_logits: (B, C, h, w) of the same slices; no gradient flows into them.
            unannotated: codes in view but never labeled; they take no part.

        Raises:
            ValueError: shapes that do not belong together.
        """
        check_same_slices(attention_logits, logits, "logits")
        with torch.autocast(logits.device.type, enabled=False):
            target = attention_maps(attention_logits.detach(), self.activation, unannotated)
            # In logarithms: a probability that rounds to 1 where A says 0 has a gradient, too.
            log_p, log_rest = log_softmax_and_complement(mask_unannotated(logits, unannotated))
            log_p, log_rest = self._pool(log_p, log_rest, attention_logits.shape[2:])
            # An unannotated class has target 0 and log(1 - p) = 0: it adds 0, and is left out of the count.
            cells = -(target * log_p + (1 - target) * log_rest).sum()
            annotated = logits.shape[1] - len(set(unannotated))
            return cells * (1.0 / (annotated * (target.numel() // target.shape[1])))

    def _pool(self, log_p: Tensor, log_rest: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """log p and log(1 - p) of the pooled p, on the grid (h, w), of those of p (B, C, H, W)."""
        grid = (int(size[0]), int(size[1]))
        if self.pooling == "average":
            return _log_of_mean(log_p, grid), _log_of_mean(log_rest, grid)
        background, structures = log_p[:, :1], log_p[:, 1:]
        largest = F.adaptive_max_pool2d(structures, grid)
        smallest_rest = -F.adaptive_max_pool2d(-log_rest[:, 1:], grid)
        return (
            torch.cat([_log_of_mean(background, grid), largest], dim=1),
            torch.cat([_log_of_mean(log_rest[:, :1], grid), smallest_rest], dim=1),
        )


def _log_of_mean(log: Tensor, grid: tuple[int, int]) -> Tensor:
    """log of the mean of exp(log) over each cell, -87 at least: float32's smallest number."""
    return F.adaptive_avg_pool2d(log.exp(), grid).clamp(min=torch.finfo(log.dtype).tiny).log()
