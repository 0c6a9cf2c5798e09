"""Stage 1 behind the same seam as stage 2: a vision-language model trained on labeled slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.methods.base import Batch, SemiSupervisedMethod
from cps4_monai.networks.ema import unwrap


class AttentionPretraining(SemiSupervisedMethod):
    """A loss of attention logits and label, on labeled slices: the token and pixel loss of CPS4, and their relatives.

    Stage 2 sees :meth:`freeze` of it and nothing else. An objective with momentum encoders, prototypes or queues is a
    sibling of this class: the first belong to ``after_step``, the second are parameters of the network, the third
    ``extra_state``.

    Args:
        network: image (B, 1, H, W) to attention logits (B, C, h, w), with a ``freeze``.
        optimizer: of its parameters.
        loss: (attention_logits, label (B, 1, H, W)) to a scalar.
        objective: what the stage-1 file says that the weights were trained by.
        substitution: what stands in place of data that the objective was published with (reports, gaze); None: nothing.
    """

    source: ClassVar[str] = "Pan et al., arXiv 2606.15802"
    needs_unlabeled = False
    options = (*SemiSupervisedMethod.options, "objective", "substitution")

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        loss: nn.Module,
        objective: str = "token and pixel loss on class prompts",
        substitution: str | None = None,
    ) -> None:
        super().__init__({"model": network}, {"model": optimizer}, "model")
        self.loss = loss
        self.objective = objective
        self.substitution = substitution

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``attention_logits`` (B, C, h, w)."""
        return {"attention_logits": self.networks["model"](batch["labeled"]["image"])}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss`` alone."""
        return {"loss": self.loss(outputs["attention_logits"], batch["labeled"]["label"])}

    def freeze(self) -> Any:
        """What stage 2 sees: the image side with its prompt embeddings, and by which objective it was trained."""
        frozen = unwrap(self.networks["model"]).freeze()  # type: ignore[operator]
        frozen.objective, frozen.substitution = self.objective, self.substitution
        return frozen
