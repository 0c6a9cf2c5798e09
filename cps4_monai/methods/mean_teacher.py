"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017): the yardstick of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import consistency_mse, supervised_cross_entropy
from cps4_monai.methods.base import Batch
from cps4_monai.methods.teacher_student import TeacherStudent


class MeanTeacher(TeacherStudent):
    """Agreement with the moving average: L_sup + lambda(t) * MSE(softmax of student, softmax of teacher).

    Args:
        student: the network to train.
        optimizer: of its parameters.
        consistency_weight: lambda's maximum. The mean runs over classes too, so useful values grow with their number.
        ramp_up_updates: optimiser steps until the maximum, by a sigmoid ramp.
        **teacher_student: `unannotated`, `ema_decay` and `deployed` of :class:`TeacherStudent`.

    Raises:
        ValueError: a negative weight, and as :class:`TeacherStudent`.
    """

    source: ClassVar[str] = "Tarvainen and Valpola, NeurIPS 2017"

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        consistency_weight: float = 1.0,
        ramp_up_updates: int = 1000,
        **teacher_student: Any,
    ) -> None:
        if consistency_weight < 0:
            raise ValueError(f"consistency_weight is {consistency_weight}; expected a number of at least 0")
        super().__init__(student, optimizer, ramp_up_updates=ramp_up_updates, **teacher_student)
        self.consistency_weight = consistency_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits``, ``unlabeled_logits``, ``teacher_logits``, each (B, C, H, W)."""
        return {**self.student_logits(batch), "teacher_logits": self.teacher_logits(batch)}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised`` and ``loss_consistency``, the latter before its weight."""
        supervised = supervised_cross_entropy(outputs["labeled_logits"], batch["labeled"]["label"], self.unannotated)
        consistency = consistency_mse(outputs["unlabeled_logits"], outputs["teacher_logits"], self.unannotated)
        total = supervised + self.ramp * self.consistency_weight * consistency
        return {"loss": total, "loss_supervised": supervised, "loss_consistency": consistency}
