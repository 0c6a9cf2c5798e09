"""Stage 1 of the VESSA-style assistant: segmenting labeled slices by templates of other patients.

After Guo et al., arXiv 2511.19759: the architecture is known in outline, the losses and their schedule are ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.methods.base import Batch, SemiSupervisedMethod
from cps4_monai.networks.ema import unwrap


class VessaPretraining(SemiSupervisedMethod):
    """Labeled slices are segmented by templates of other patients, half of them with simulated feedback.

    Each step draws how many templates a slice gets; a share of the slices gets none. Features by which templates are
    matched are computed anew at fixed shares of the run, and kept in between. Stage 2 sees :meth:`freeze` of it.

    Args:
        network: :class:`cps4_monai.vessa.Assistant`.
        optimizer: of its parameters.
        loss: (logits (B, C, h, w), label (B, 1, H, W)) to a scalar.
        simulated: label (B, 1, H, W) to what a student might say of it, (B, C, H, W); None: no feedback in stage 1.
        max_templates: a slice gets 1 to this many templates, drawn for each step.
        without_template: share of the slices that get none.
        refresh_share: share of the run after which the templates' features are computed anew.
        text_weight: of the text loss, where the reference encoder writes text.
        objective: what the stage-1 file says that the weights were trained by.
        substitution: what stands in place of what the objective was published with; None: nothing.

    Raises:
        ValueError: a share outside its range, a negative weight, fewer than one template.
    """

    source: ClassVar[str] = "Guo et al., arXiv 2511.19759 (weakly sourced: outline only; losses and schedule ours)"
    needs: ClassVar[tuple[str, ...]] = ("labeled slices of two patients or more",)
    needs_unlabeled = False
    budget_notes = ("one to three templates are encoded beside each labeled slice",)

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        loss: nn.Module,
        simulated: Callable[[Tensor], Tensor] | None = None,
        max_templates: int = 3,
        without_template: float = 0.1,
        refresh_share: float = 0.05,
        text_weight: float = 1.0,
        objective: str = "VESSA-style assistant, trained from scratch on the labeled slices",
        substitution: str | None = None,
    ) -> None:
        if not (0 <= without_template <= 1 and 0 < refresh_share <= 1 and text_weight >= 0 and max_templates >= 1):
            raise ValueError(
                f"without_template is {without_template}, refresh_share {refresh_share}, text_weight {text_weight}, "
                f"max_templates {max_templates}; expected shares in [0, 1] (the second above 0), a weight of at least "
                "0, one template or more. Fix: set it within these bounds"
            )
        super().__init__({"model": network}, {"model": optimizer}, "model")
        self.waits_for_device = bool(getattr(unwrap(network), "waits_for_device", False))
        self.loss = loss
        self.simulated = simulated
        self.max_templates = max_templates
        self.without_template = without_template
        self.refresh_share = refresh_share
        self.text_weight = text_weight
        self.objective = objective
        self.substitution = substitution
        self._refreshed_at = -1

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``logits`` (B, C, h, w) and, where the reference encoder writes text, the scalar ``text_loss``."""
        labeled, network = batch["labeled"], self.networks["model"]
        if self.updates % max(1, self.share_of_run(self.refresh_share)) == 0 and self._refreshed_at != self.updates:
            unwrap(network).refresh()  # type: ignore[operator]
            self._refreshed_at = self.updates  # batches of one accumulated step share the templates
        image = labeled["image"]
        logits, text_loss = network(
            image,
            None if self.simulated is None else self.simulated(labeled["label"]),
            slice_id=labeled["slice_id"],
            count=random.randint(1, self.max_templates),  # on the host, without asking the device
            without=torch.rand(len(image), device=image.device) < self.without_template,
            with_text=True,
        )
        return {"logits": logits} if text_loss is None else {"logits": logits, "text_loss": text_loss}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_segmentation`` and, before its weight, ``loss_text`` where there is text."""
        parts = {"loss_segmentation": self.loss(outputs["logits"], batch["labeled"]["label"])}
        total = parts["loss_segmentation"]
        if "text_loss" in outputs:
            parts["loss_text"] = outputs["text_loss"]
            total = total + self.text_weight * parts["loss_text"]
        return {"loss": total, **parts}

    def extra_state(self) -> dict[str, Tensor]:
        """Features by which templates are matched, as they were last computed."""
        return {"features": unwrap(self.networks["model"]).features}  # type: ignore[dict-item]

    def freeze(self) -> Any:
        """What stage 2 sees: the assistant with its prompt embeddings, and by which objective it was trained."""
        frozen = unwrap(self.networks["model"]).freeze()  # type: ignore[operator]
        frozen.objective, frozen.substitution = self.objective, self.substitution
        return frozen
