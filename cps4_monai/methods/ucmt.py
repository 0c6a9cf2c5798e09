"""UCMT (Shen et al., IJCAI 2023): two students and one teacher, and patches exchanged by their uncertainty.

Read with the authors' code, Senyh/UCMT, which has no licence: formulas and numbers only. There is no script of theirs
for 2-D data of several classes; what stands here for it is an inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from cps4_monai.losses.dice import check_dice_weight, segmentation_loss
from cps4_monai.losses.semi_supervised import mask_unannotated, ramp_up
from cps4_monai.methods.base import Batch, SemiSupervisedMethod
from cps4_monai.methods.mixing import certain_for_uncertain, exchange_patches
from cps4_monai.methods.teacher_student import TeacherStudent
from cps4_monai.networks.composite import StudentPair
from cps4_monai.networks.ema import ema_decay, ema_update_of_pair, unwrap


class UCMT(TeacherStudent):
    """L_sup + weight * ramp * (L_cps + L_cmt), twice a batch: on the pictures, then on pictures with exchanged patches.

    Both students learn from the labels (L_sup, their sum), from each other's hard label (L_cps, mean of both) and from
    the teacher's (L_cmt, mean of both); on unlabeled slices each has a strong view of its own. For the second step, in
    every picture the patches of which student 1 and teacher are least sure become copies of those of which they are
    surest, targets likewise. Certainty is that of the weak views, in evaluation mode; as all views of a slice share its
    geometry, each student keeps its own strong view there, too (in the authors' code both get that of student 1).

    Args:
        student: :class:`cps4_monai.networks.StudentPair`.
        optimizer: of the parameters of both.
        unlabeled_weight: of L_cps + L_cmt.
        ramp_share: share of the run over which that weight grows.
        dice_weight: share of the soft Dice in the segmentation loss, the rest being the cross-entropy. 1 in the paper.
        teacher_mix: share of student 1 in what the teacher follows; student 2 has the rest.
        grid: patches along each side of a picture.
        exchanged: patches that are replaced.
        **teacher_student: `unannotated`, `ema_decay`, `deployed`, `batch_statistics` of :class:`TeacherStudent`.

    Raises:
        ValueError: a share outside [0, 1], a negative weight or number, and as :class:`TeacherStudent`.
        TypeError: a student that is no pair.
    """

    source: ClassVar[str] = "Shen et al., IJCAI 2023; code read: Senyh/UCMT (no licence: formulas and numbers only)"
    needs: ClassVar[tuple[str, ...]] = ("slices whose sides are multiples of 16, or another grid",)
    strong_views: ClassVar[int] = 2
    steps_per_batch: ClassVar[int] = 2
    exchanged_keys: ClassVar[tuple[str, ...]] = ("image", "image_strong", "image_strong_2")
    budget_notes = ("two students", "two optimiser steps per batch", "about four times the computation")

    def __init__(
        self,
        student: StudentPair,
        optimizer: Optimizer,
        unlabeled_weight: float = 0.1,
        ramp_share: float = 0.2,
        dice_weight: float = 0.5,
        teacher_mix: float = 0.99,
        grid: int = 16,
        exchanged: int = 2,
        **teacher_student: Any,
    ) -> None:
        for name, share in (("ramp_share", ramp_share), ("teacher_mix", teacher_mix)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; expected a share from 0 to 1")
        check_dice_weight(dice_weight)
        if min(unlabeled_weight, exchanged, grid - 1) < 0:
            raise ValueError(
                f"unlabeled_weight is {unlabeled_weight}, grid {grid}, exchanged {exchanged}; expected numbers of at "
                "least 0, and a grid of at least 1"
            )
        if not hasattr(unwrap(student), "second"):
            raise TypeError(f"student is a {type(unwrap(student)).__name__}; expected cps4_monai.networks.StudentPair")
        super().__init__(student, optimizer, **teacher_student)
        self.unlabeled_weight = unlabeled_weight
        self.ramp_share = ramp_share
        self.dice_weight = dice_weight
        self.teacher_mix = teacher_mix
        self.grid = grid
        self.exchanged = exchanged

    @property
    def ramp(self) -> float:
        """Present factor of the unlabeled losses, in (0, 1]; both steps of a batch have the same."""
        batches = self.updates // self.steps_per_batch
        return ramp_up(batches, self.share_of_run(self.ramp_share) // self.steps_per_batch)

    def steps(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """The step on the pictures as they are, then that on the pictures with exchanged patches."""
        yield self.forward(batch)
        yield self.forward(self._exchanged(batch))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, C, H, W) of both students on labeled and unlabeled slices, with the targets of the step.

        ``first_labeled_logits``, ``second_labeled_logits``, ``first_unlabeled_logits``, ``second_unlabeled_logits``,
        ``label`` and ``pseudo_label`` (B, 1, H, W). A batch that brings no ``pseudo_label`` asks the teacher for it.
        """
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        if "image_strong_2" not in unlabeled:
            raise ValueError("the unlabeled batch holds no 'image_strong_2'; make the views with strong_views: 2")
        outputs = {}
        for name, second, key in (("first", False, "image_strong"), ("second", True, "image_strong_2")):
            of_labeled, of_unlabeled = self._student(labeled["image"], unlabeled[key], second)
            outputs[f"{name}_labeled_logits"], outputs[f"{name}_unlabeled_logits"] = of_labeled, of_unlabeled
        given = "pseudo_label" in unlabeled
        pseudo_label = unlabeled["pseudo_label"] if given else self._hard(self.teacher_logits(batch))
        return {**outputs, "label": labeled["label"], "pseudo_label": pseudo_label}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised`` (sum over students), ``loss_cross`` and ``loss_teacher`` (means over them)."""
        first, second = outputs["first_unlabeled_logits"], outputs["second_unlabeled_logits"]
        supervised = sum(
            self._segmentation(outputs[f"{name}_labeled_logits"], outputs["label"]) for name in ("first", "second")
        )
        cross = (self._segmentation(first, self._hard(second)) + self._segmentation(second, self._hard(first))) / 2
        pseudo_label = outputs["pseudo_label"]
        teacher = (self._segmentation(first, pseudo_label) + self._segmentation(second, pseudo_label)) / 2
        total = supervised + self.ramp * self.unlabeled_weight * (cross + teacher)
        return {"loss": total, "loss_supervised": supervised, "loss_cross": cross, "loss_teacher": teacher}  # type: ignore[dict-item]

    def after_step(self) -> None:
        """Moves the teacher towards the mean of both students; both steps of a batch have the same decay."""
        decay = ema_decay(self.updates // self.steps_per_batch, self.ema_decay)
        SemiSupervisedMethod.after_step(self)
        pair = unwrap(self.networks["student"])
        ema_update_of_pair(self.teacher, pair.backbone, pair.second, self.teacher_mix, decay)  # type: ignore[arg-type]

    def _student(self, labeled: Tensor, view: Tensor, second: bool) -> tuple[Tensor, Tensor]:
        pair = self.networks["student"]
        if self.batch_statistics == "separate":
            return pair(labeled, second=second), pair(view, second=second)
        logits = pair(torch.cat((labeled, view)), second=second)
        return logits[: len(labeled)], logits[len(labeled) :]

    @torch.no_grad()
    def _hard(self, logits: Tensor) -> Tensor:
        """(B, 1, H, W) int64 codes."""
        return mask_unannotated(logits, self.unannotated).argmax(dim=1, keepdim=True)

    def _segmentation(self, logits: Tensor, codes: Tensor) -> Tensor:
        return segmentation_loss(logits, codes, self.unannotated, dice_weight=self.dice_weight)

    @torch.no_grad()
    def _exchanged(self, batch: Batch) -> Batch:
        """The batch with exchanged patches: labeled and unlabeled pictures, label and pseudo-label."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        teacher = {half: self.teacher(batch[half]["image"]) for half in ("labeled", "unlabeled")}
        pictures = {
            "labeled": {key: labeled[key] for key in ("image", "label")},
            "unlabeled": {
                **{key: unlabeled[key] for key in self.exchanged_keys},
                "pseudo_label": self._hard(teacher["unlabeled"]),
            },
        }
        exchanged = {}
        for half, own in pictures.items():
            uncertainty = self._uncertainty(own["image"], teacher[half])
            places = certain_for_uncertain(uncertainty, self.grid, self.exchanged)
            exchanged[half] = {key: exchange_patches(value, places, self.grid) for key, value in own.items()}
        return exchanged

    def _uncertainty(self, image: Tensor, teacher_logits: Tensor) -> Tensor:
        """Entropy (B, 1, H, W) in nats of the mean of student 1 and teacher, both in evaluation mode."""
        teacher = mask_unannotated(teacher_logits, self.unannotated).softmax(dim=1)
        mean = (self.student_probabilities(image) + teacher) / 2
        return -torch.special.xlogy(mean, mean).sum(dim=1, keepdim=True)
