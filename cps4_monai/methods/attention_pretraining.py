"""Stage 1 behind the same seam as stage 2: a vision-language model trained on labeled slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.methods.base import Batch
from cps4_monai.methods.prompted_pretraining import PromptedPretraining


class AttentionPretraining(PromptedPretraining):
    """Loss of attention logits and label on labeled slices: the token and pixel loss, and its relatives.

    An objective with momentum encoders, prototypes or queues is a sibling of this class: the first belong to
    ``after_step``, the second are parameters of the network, the third ``extra_state`` (``mgca.py``).

    Args:
        network: image (B, 1, H, W) to attention logits (B, C, h, w), with a ``freeze``.
        optimizer: of its parameters.
        loss: (attention_logits, label (B, 1, H, W)) to a scalar; where it has ``parts``, they are shown beside it.
        objective: what the stage-1 file says that the weights were trained by.
        substitution: what stands in place of data that the objective was published with (reports, gaze); None: nothing.
    """

    source: ClassVar[str] = "Pan et al., arXiv 2606.15802"

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        loss: nn.Module,
        objective: str = "token and pixel loss on class prompts",
        substitution: str | None = None,
    ) -> None:
        super().__init__(network, optimizer, objective, substitution)
        self.loss = loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``attention_logits`` (B, C, h, w)."""
        return {"attention_logits": self.networks["model"](batch["labeled"]["image"])}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, and its parts before their weights as ``loss_...`` where the loss has any."""
        given = (outputs["attention_logits"], batch["labeled"]["label"])
        parts_of = getattr(self.loss, "parts", None)
        if parts_of is None:
            return {"loss": self.loss(*given)}
        parts = parts_of(*given)
        return {"loss": parts["loss"]} | {f"loss_{name}": part for name, part in parts.items() if name != "loss"}
