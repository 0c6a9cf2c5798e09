"""L_text on the grid of the attention maps, where their blurred outline costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.attention_maps import ACTIVATIONS
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

    options = ("activation", "pooling")

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
            probs = mask_unannotated(logits, unannotated).softmax(dim=1)
            target = attention_maps(attention_logits.detach(), self.activation, unannotated)
            pooled = self._pool(probs, attention_logits.shape[2:])
            # Both are exactly 0 in unannotated classes, which therefore add 0 and are left out of the count.
            cells = F.binary_cross_entropy(pooled.clamp(max=1.0), target, reduction="sum")
            annotated = logits.shape[1] - len(set(unannotated))
            return cells * (1.0 / (annotated * (target.numel() // target.shape[1])))

    def _pool(self, probs: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, H, W) probabilities on the grid (h, w)."""
        grid = (int(size[0]), int(size[1]))
        if self.pooling == "average":
            return F.adaptive_avg_pool2d(probs, grid)
        background = F.adaptive_avg_pool2d(probs[:, :1], grid)
        return torch.cat([background, F.adaptive_max_pool2d(probs[:, 1:], grid)], dim=1)
