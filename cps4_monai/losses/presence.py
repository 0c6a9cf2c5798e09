"""Stage-1 loss of the provider `clip`: which classes a slice shows, and nothing about where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.losses.attention import check_shapes
from cps4_monai.losses.captions import mean_where, occurrence
from cps4_monai.losses.whole_batch import whole_sum


class PresenceLoss(nn.Module):
    """Image against prompts, as CLIP holds them together, with several classes in one slice.

    The image token is the mean of the projected patch tokens, each of length one, of the patches that somebody
    annotated. Its logit for class i is therefore the mean of the class's attention logits over them,
    ``w * mean_u cos(F_I(u), F_T,i) + b``, and the loss is the binary cross-entropy with "the slice shows class i", mean
    over the known classes, then over the slices that have one. Source: Radford et al., "Learning transferable visual
    models from natural language supervision", ICML 2021, with the sigmoid in place of the softmax over captions (Zhai
    et al., "Sigmoid loss for language image pre-training", ICCV 2023).
    Of a slice with pixels that nobody annotated (255), only the classes that it shows are known, and count; one without
    any annotated cell of the classes that take part does not.

    >>> label = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    >>> round(PresenceLoss()(torch.zeros(1, 2, 4, 4), label).item(), 4)  # ln 2: it knows nothing
    0.6931

    Args:
        unannotated: codes in view but never labeled; they take no part.

    Raises:
        ValueError: a negative code.
    """

    source: ClassVar[str] = "Radford et al., ICML 2021, with the sigmoid of Zhai et al., ICCV 2023"

    def __init__(self, unannotated: Sequence[int] = ()) -> None:
        super().__init__()
        if any(code < 0 for code in unannotated):
            raise ValueError(f"unannotated is {tuple(unannotated)}; expected class codes of 0 or more")
        self.unannotated = tuple(sorted(set(unannotated)))

    def forward(self, attention_logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss.

        Args:
            attention_logits: (B, C, h, w).
            label: (B, 1, H, W) class codes.

        Raises:
            ValueError: shapes that do not belong together, or no annotated class.
        """
        check_shapes(attention_logits, label)
        count = attention_logits.shape[1]
        kept = [code for code in range(count) if code not in self.unannotated]
        if not kept:
            raise ValueError(f"all {count} classes are unannotated ({self.unannotated}): shorten `unannotated`")
        with torch.autocast(attention_logits.device.type, enabled=False):
            cells = occurrence(label, count, attention_logits.shape[2:], self.unannotated).flatten(2)  # (B, C, h * w)
            pooled = mean_where(attention_logits.float().flatten(2), cells.any(1, keepdim=True))  # (B, C)
            shown = cells.any(2).float()  # (B, C)
            if len(kept) < count:
                pooled = torch.cat([pooled[:, code : code + 1] for code in kept], dim=1)
                shown = torch.cat([shown[:, code : code + 1] for code in kept], dim=1)
            known = (shown > 0) | (label != NOT_ANNOTATED).flatten(2).all(2)
            pairs = F.binary_cross_entropy_with_logits(pooled, shown, reduction="none")
            of_slice = mean_where(pairs, known)
            told = known.any(1) & cells.flatten(1).any(1)
            return whole_sum((of_slice * told).sum()) / whole_sum(told.sum()).clamp(min=1)
