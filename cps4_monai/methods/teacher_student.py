"""What Mean Teacher, CPS4 and their relatives have in common: a student and its moving average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import ramp_up
from cps4_monai.methods.base import Batch, SemiSupervisedMethod
from cps4_monai.networks.composite import deployable
from cps4_monai.networks.ema import ema_decay, ema_update, make_teacher

BATCH_STATISTICS = ("separate", "joint")


class TeacherStudent(SemiSupervisedMethod):
    """A student that is trained and a teacher that follows it (eq. 4); the teacher is deployed unless told otherwise.

    The teacher, in evaluation mode and without gradient, sees the weak view of the unlabeled slices (row 16).

    Args:
        student: the network to train, or a :class:`cps4_monai.networks.Composite` around it; the teacher is a copy of
            the network as it is now, so load weights first.
        optimizer: of the student's parameters.
        unannotated: see :class:`SemiSupervisedMethod`.
        ema_decay: of the teacher, with warm-up min(1 - 1/(t+1), ema_decay) (row 17).
        ramp_up_updates: optimiser steps over which the weight of the unlabeled losses grows; 0 is no ramp (row 18).
        deployed: "teacher" or "student".
        batch_statistics: which slices BatchNorm normalises together while the student trains. "joint": labeled and
            unlabeled ones in one forward pass; "separate": each kind in a pass of its own, so that what the student
            learns from a label does not depend on the unlabeled slices that happen to be beside it.

    Raises:
        ValueError: a decay outside [0, 1], a negative ramp, or one beside a ramp of the method's own, an unknown
            `deployed` or `batch_statistics`.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        unannotated: Sequence[int] = (),
        ema_decay: float = 0.99,
        ramp_up_updates: int = 0,
        deployed: str = "teacher",
        batch_statistics: str = "separate",
    ) -> None:
        if not 0.0 <= ema_decay <= 1.0:
            raise ValueError(f"ema_decay is {ema_decay}; expected a number from 0 (copy) to 1 (frozen), as 0.99")
        if batch_statistics not in BATCH_STATISTICS:
            raise ValueError(f"batch_statistics is {batch_statistics!r}; expected one of {list(BATCH_STATISTICS)}")
        ramp_up(0, ramp_up_updates)
        if ramp_up_updates and type(self).ramp is not TeacherStudent.ramp:
            raise ValueError(
                f"ramp_up_updates is {ramp_up_updates}, and the ramp of {type(self).__name__} is a share of the run: "
                "set its ramp_share"
            )
        networks = {"student": student, "teacher": make_teacher(deployable(student))}
        super().__init__(networks, {"student": optimizer}, deployed, unannotated)
        self.ema_decay = ema_decay
        self.ramp_up_updates = ramp_up_updates
        self.batch_statistics = batch_statistics

    @property
    def student(self) -> nn.Module:
        """The trained network, unwrapped; of a composite, its backbone."""
        return deployable(self.networks["student"])

    @property
    def teacher(self) -> nn.Module:
        """The moving average of the student."""
        return self.networks["teacher"]

    @property
    def ramp(self) -> float:
        """Present factor of the unlabeled losses, in (0, 1]."""
        return ramp_up(self.updates_of_ramp, self.ramp_up_updates)

    @property
    def updates_of_ramp(self) -> int:
        """Optimiser steps since the unlabeled losses count."""
        return self.updates

    def train(self) -> None:
        """The student trains, the teacher stays in evaluation mode."""
        self.networks["student"].train()
        self.teacher.eval()

    def unlabeled_view(self, batch: Batch) -> Tensor:
        """The unlabeled slices as the student sees them: with intensities of their own, as labeled ones have them."""
        unlabeled = batch["unlabeled"]
        return unlabeled.get("image_strong", unlabeled["image"])

    def student_logits(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits`` and ``unlabeled_logits``, each (B, C, H, W)."""
        labeled, view = batch["labeled"]["image"], self.unlabeled_view(batch)
        if labeled.shape[1:] != view.shape[1:]:
            raise ValueError(
                f"labeled images have shape {tuple(labeled.shape)}, unlabeled ones {tuple(view.shape)}; "
                "expected one in-plane size for both: set it in the data section"
            )
        student = self.networks["student"]
        if self.batch_statistics == "separate":
            return {"labeled_logits": student(labeled), "unlabeled_logits": student(view)}
        logits = student(torch.cat((labeled, view)))
        return {"labeled_logits": logits[: len(labeled)], "unlabeled_logits": logits[len(labeled) :]}

    @torch.no_grad()
    def teacher_logits(self, batch: Batch) -> Tensor:
        """(B, C, H, W) of the weak view."""
        return self.teacher(batch["unlabeled"]["image"])

    def after_step(self) -> None:
        """Moves the teacher towards the student."""
        decay = ema_decay(self.updates, self.ema_decay)
        super().after_step()
        ema_update(self.teacher, self.student, decay)
