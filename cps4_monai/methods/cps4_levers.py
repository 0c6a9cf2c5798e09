"""CPS4 with levers that the paper does not have: what the study `levers` compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.attention_maps import ACTIVATIONS
from cps4_monai.losses.grid_text import GridTextLoss
from cps4_monai.losses.semi_supervised import map_confidence, text_cross_entropy
from cps4_monai.methods.cps4 import CPS4


class CPS4Levers(CPS4):
    """CPS4 whose L_text is made otherwise; without a lever it is :class:`CPS4`.

    Args:
        student: the network to train.
        optimizer: of its parameters.
        grid_text: L_text on the attention's own grid, instead of against y_text.
        text_confidence: "sigmoid" or "softmax", as stage 1 makes A: each pixel of L_text counts as much as A of the
            class that y_text names there. None: all pixels alike.
        **cps4: further arguments of :class:`CPS4`.

    Raises:
        ValueError: an unknown activation, `text_confidence` beside `grid_text`, and as :class:`CPS4`.
    """

    source: ClassVar[str] = "of this project, on CPS4 (Pan et al., arXiv 2606.15802)"

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        grid_text: GridTextLoss | None = None,
        text_confidence: str | None = None,
        **cps4: Any,
    ) -> None:
        if text_confidence is not None and (text_confidence not in ACTIVATIONS or grid_text is not None):
            raise ValueError(
                f"text_confidence is {text_confidence!r}, grid_text {'off' if grid_text is None else 'on'}; expected "
                f"one of {list(ACTIVATIONS)}, or None, and no grid_text beside it"
            )
        super().__init__(student, optimizer, **cps4)
        self.grid_text = grid_text
        self.text_confidence = text_confidence

    @property
    def _of_text(self) -> tuple[str, ...]:
        if self.grid_text is not None:
            return ("attention_logits",)
        return ("prompt_map",) if self.text_confidence is None else ("prompt_map", "attention_logits")

    def _text(self, student: Tensor, unlabeled: Mapping[str, Tensor]) -> Tensor:
        if self.grid_text is not None:
            return self.grid_text(student, unlabeled["attention_logits"], self.unannotated)
        if self.text_confidence is None:
            return super()._text(student, unlabeled)
        prompt_map = unlabeled["prompt_map"]
        confidence = map_confidence(prompt_map, unlabeled["attention_logits"], self.text_confidence, self.unannotated)
        return text_cross_entropy(student, prompt_map, self.unannotated, confidence)
