"""Stage-1 loss of the provider `medclip`: soft semantic matching of slices and class prompts (MedCLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.logits import NEVER
from cps4_monai.losses.attention import check_shapes
from cps4_monai.losses.captions import annotated_classes, mean_where, occurrence

CODINGS = ("binary", "signed")


class MedCLIPLoss(nn.Module):
    """MedCLIP's objective on class prompts: slices and prompts are unpaired, and a label says how well each pair fits.

    MedCLIP matches X-rays with sentences by the findings that both are labeled with. Here the findings are the classes
    that the label of a slice shows, and the pool of texts is the class prompts. The similarity of slice i and prompt c
    is the mean of the class's attention logits over annotated cells, ``w * mean_u cos(F_I(u), F_T,c) + b``; b cancels.
    With y_ic the presence of c in i, the loss is the mean of two cross-entropies: of the softmax over the classes with
    ``softmax_c(y_ic)``, mean over slices, and of the softmax over the slices of the batch with ``softmax_i(y_ic)``,
    mean over classes. No mask enters: which cells a class lies in makes no difference. Of a slice with pixels that
    nobody annotated (255) only the classes that it shows are known, and the other pairs enter neither softmax.

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
            shown = occurrence(label, count, grid, self.unannotated)
            pooled = mean_where(attention_logits.float().flatten(2), shown.any(1, keepdim=True).flatten(2))  # (B, C)
            present = shown.flatten(2).any(2)
            known = self._known(label, present)
            pairs = pooled.masked_fill(~known, NEVER), self._coded(present).masked_fill(~known, NEVER)
            over_classes = mean_where(_cross_entropy(*pairs, 1), known.any(1))
            over_slices = mean_where(_cross_entropy(*pairs, 0), known.any(0))
            return {
                "loss": (over_classes + over_slices) / 2,
                "over_classes": over_classes,
                "over_slices": over_slices,
            }

    def _known(self, label: Tensor, present: Tensor) -> Tensor:
        """(B, C) bool: of which pairs it is known whether the slice shows the class."""
        whole = (label != NOT_ANNOTATED).flatten(1).all(1, keepdim=True)
        kept = annotated_classes(present.shape[1], self.unannotated, label.device)
        return (present | whole) & kept & present.any(1, keepdim=True)

    def _coded(self, present: Tensor) -> Tensor:
        return present.float() * 2 - 1 if self.presence_coding == "signed" else present.float()


def _cross_entropy(logits: Tensor, target_logits: Tensor, dim: int) -> Tensor:
    """Of two softmaxes along an axis, which it takes away."""
    return -(target_logits.softmax(dim) * logits.log_softmax(dim)).sum(dim)
