"""The baseline that sees labeled slices only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import supervised_cross_entropy
from cps4_monai.methods.base import Batch, SemiSupervisedMethod


class Supervised(SemiSupervisedMethod):
    """L_sup (eq. 5) alone; with all subjects labeled, the upper bound of every comparison.

    To compare at equal budget, count iterations: an epoch of labeled slices is shorter than one of unlabeled ones.

    Args:
        student: the network to train.
        optimizer: of its parameters.
        unannotated: see :class:`SemiSupervisedMethod`.
    """

    source: ClassVar[str] = "the baseline of every comparison"
    needs_unlabeled = False

    def __init__(self, student: nn.Module, optimizer: Optimizer, unannotated: Sequence[int] = ()) -> None:
        super().__init__({"student": student}, {"student": optimizer}, "student", unannotated)

    @property
    def student(self) -> nn.Module:
        """The trained network, unwrapped."""
        return self.deployed

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits`` (B, C, H, W)."""
        return {"labeled_logits": self.networks["student"](batch["labeled"]["image"])}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss`` and, equal to it, ``loss_supervised``."""
        loss = supervised_cross_entropy(outputs["labeled_logits"], batch["labeled"]["label"], self.unannotated)
        return {"loss": loss, "loss_supervised": loss}
