"""Stage-1 loss of the provider `medclip`: soft semantic matching of slices and class prompts (MedCLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from cps4_monai.losses.attention import check_shapes
from cps4_monai.losses.captions import NEVER, annotated_classes, mean_where, occurrence

CODINGS = ("binary", "signed")


class MedCLIPLoss(nn.Module):
    """MedCLIP's objective on class prompts: slices and prompts are unpaired, and a label says how well each pair fits.

    MedCLIP matches X-rays with sentences by the findings that both are labeled with. Here the findings are the classes
    that the label of a slice shows, and the pool of texts is the class prompts. The similarity of slice i and prompt c
    is the mean of the class's attention logits over annotated cells, ``w * mean_u cos(F_I(u), F_T,c) + b``; b cancels.
    With y_ic the presence of c in i, the loss is the mean of two cross-entropies: of the softmax over the classes with
    ``softmax_c(y_ic)``, mean over slices, and of the softmax over the slices of the batch with ``softmax_i(y_ic)``,
    mean over classes. No mask enters: which cells a class lies in makes no difference.

    The target is nearly uniform where a slice shows most classes. With 17 of 20 present it is .0552 for a present and
    .0203 for an absent class: the loss over classes is 2.957 at its best and ln 20 = 2.996 for a uniform answer, so
    that the whole signal is .04 nats.

    Args:
        unannotated: codes in view but never labeled; they enter neither softmax.
        presence_coding: y, "binary": 1 and 0; "signed": 1 and -1, a sharper target (.0575 and .0078 in the example).

    Raises:
        ValueError: an unknown coding, or a negative code.
    """

    source: ClassVar[str] = "Wang et al., MedCLIP, EMNLP 2022"
    options = ("presence_coding", "unannotated")

    def __init__(self, unannotated: Sequence[int] = (), presence_coding: str = "binary") -> None:
        super().__init__()
        if presence_coding not in CODINGS:
            raise ValueError(f"presence_coding is {presence_coding!r}; expected one of {list(CODINGS)}")
        if any(code < 0 for code in unannotated):
            raise ValueError(f"unannotated is {tuple(unannotated)}; expected class codes of 0 or more")
        self.presence_coding = presence_coding
        self.unannotated = tuple(sorted(set(unannotated)))

    def forward(self, attention_logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss, of attention logits (B, C, h, w) and class codes (B, 1, H, W)."""
        return self.parts(attention_logits, label)["loss"]

    def parts(self, attention_logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Scalars ``loss``, ``over_classes`` (a slice chooses its classes) and ``over_slices`` (the reverse).

        Raises:
            ValueError: shapes that do not belong together, or codes outside 1 to C-1.
        """
        check_shapes(attention_logits, label)
        count, grid = attention_logits.shape[1], attention_logits.shape[2:]
        with torch.autocast(attention_logits.device.type, enabled=False):
            found = occurrence(label, count, grid, self.unannotated)
            pooled = mean_where(attention_logits.float().flatten(2), found.any(1, keepdim=True).flatten(2))  # (B, C)
            kept = annotated_classes(count, self.unannotated, label.device)
            similarity, presence = self._without(pooled, kept, found.flatten(2).any(2))
            counted = found.flatten(1).any(1)
            over_classes = mean_where(_cross_entropy(similarity, presence, 1), counted)
            left_out = ~counted[:, None]
            columns = _cross_entropy(similarity.masked_fill(left_out, NEVER), presence.masked_fill(left_out, NEVER), 0)
            over_slices = mean_where(columns, kept) * counted.any()
            return {
                "loss": (over_classes + over_slices) / 2,
                "over_classes": over_classes,
                "over_slices": over_slices,
            }

    def _without(self, pooled: Tensor, kept: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities and coded presence (B, C), both out of reach of a softmax in classes that are never labeled."""
        presence = present.float() * 2 - 1 if self.presence_coding == "signed" else present.float()
        return pooled.masked_fill(~kept, NEVER), presence.masked_fill(~kept, NEVER)


def _cross_entropy(logits: Tensor, target_logits: Tensor, dim: int) -> Tensor:
    """Of two softmaxes along an axis, which it takes away."""
    return -(target_logits.softmax(dim) * logits.log_softmax(dim)).sum(dim)
