"""BCP, bidirectional copy-paste (Bai et al., CVPR 2023), in two phases of one run.

Read with the authors' code, DeepMed-Lab-ECNU/BCP (MIT); nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.dice import check_dice_weight, segmentation_loss
from cps4_monai.losses.semi_supervised import mask_unannotated
from cps4_monai.methods.base import Batch
from cps4_monai.methods.mixing import largest_components, mix, rectangles
from cps4_monai.methods.teacher_student import TeacherStudent
from cps4_monai.networks.ema import ema_update


class BCP(TeacherStudent):
    """Rectangles of labeled slices in unlabeled ones and the reverse, each pixel with its own picture's target.

    The first part of the run pastes labeled slices into labeled ones; then the teacher becomes a copy of the student,
    and labeled and unlabeled halves of the batch are pasted into each other. A pixel's weight is that of its target: 1
    for a label, `unlabeled_weight` for a pseudo-label. What is pasted has intensities drawn in one way, or the rim of a
    rectangle would tell labeled from unlabeled: unlabeled slices come in their strong view, and the teacher sees the
    weak one where there are two (`views`). Both phases are in the run's optimiser steps, and no checkpoint is chosen
    between them. The student is deployed.

    Args:
        student: the network to train.
        optimizer: of its parameters.
        pretrain_fraction: share of the run that is the first phase.
        patch_ratio: sides of the rectangle, as a share of those of the picture.
        unlabeled_weight: of pixels with a pseudo-label.
        dice_weight: share of the soft Dice in the segmentation loss, the rest being the cross-entropy.
        largest_component: keep each structure's largest component of the pseudo-label. Off by default: the posterior
            elements of a vertebra are components of their own in a sagittal slice.
        training_teacher: the teacher normalises by the statistics of the unlabeled batch, as the authors' does; else by
            its running ones, in evaluation mode.
        full_width: rectangles of the picture's full width, lower so that their area stays: what is pasted then keeps
            its own surroundings (not in the paper).
        **teacher_student: `unannotated`, `ema_decay`, `ramp_up_updates` (of `unlabeled_weight`, from the second phase
            on), `deployed`, `batch_statistics` of :class:`TeacherStudent`; "separate" passes each direction by itself.

    Raises:
        ValueError: a share outside [0, 1], a negative weight, and as :class:`TeacherStudent`.
    """

    source: ClassVar[str] = "Bai et al., CVPR 2023; code read: DeepMed-Lab-ECNU/BCP (MIT)"
    needs: ClassVar[tuple[str, ...]] = ("an even number of labeled slices a batch, and as many unlabeled ones",)

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        pretrain_fraction: float = 0.25,
        patch_ratio: float = 2 / 3,
        unlabeled_weight: float = 0.5,
        dice_weight: float = 0.5,
        largest_component: bool = False,
        training_teacher: bool = False,
        full_width: bool = False,
        deployed: str = "student",
        **teacher_student: Any,
    ) -> None:
        for name, share in (("pretrain_fraction", pretrain_fraction), ("patch_ratio", patch_ratio)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; expected a share from 0 to 1")
        check_dice_weight(dice_weight)
        if unlabeled_weight < 0:
            raise ValueError(f"unlabeled_weight is {unlabeled_weight}; expected a number of at least 0")
        super().__init__(student, optimizer, deployed=deployed, **teacher_student)
        self.pretrain_fraction = pretrain_fraction
        self.patch_ratio = patch_ratio
        self.unlabeled_weight = unlabeled_weight
        self.dice_weight = dice_weight
        self.largest_component = largest_component
        self.training_teacher = training_teacher
        self.full_width = full_width

    @property
    def pretraining(self) -> bool:
        """Whether the coming step belongs to the first phase; with a fraction of 1 in a run made longer, too."""
        return self.pretrain_fraction >= 1 or self.updates < self.share_of_run(self.pretrain_fraction)

    @property
    def updates_of_ramp(self) -> int:
        """Optimiser steps of the second phase, with which the unlabeled losses begin."""
        return max(0, self.updates - self.share_of_run(self.pretrain_fraction))

    def train(self) -> None:
        """The student trains; so does the teacher's BatchNorm where `training_teacher` says so."""
        super().train()
        self.teacher.train(self.training_teacher)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``patch`` (1, 1, H, W) bool and, in the first phase, ``mixed_logits`` (B / 2, C, H, W).

        In the second phase ``in_logits`` (a labeled patch in an unlabeled picture), ``out_logits`` (the reverse), and
        ``pseudo_label`` (B, 1, H, W) of the unlabeled slices.
        """
        image, unlabeled = batch["labeled"]["image"], self.unlabeled_view(batch)
        if unlabeled.shape != image.shape and self.pretrain_fraction < 1:  # told in the first phase, for the second
            raise ValueError(
                f"unlabeled pictures are {tuple(unlabeled.shape)}, labeled ones {tuple(image.shape)}; expected one "
                "shape. Fix: set batch_size_labeled and batch_size_unlabeled to one even number, at most that of the "
                "unlabeled slices there are"
            )
        patch = rectangles(1, image.shape[2:], self._sides(*image.shape[2:]), image.device)
        first, second = _halves(image, "labeled")
        if self.pretraining:
            return {"patch": patch, "mixed_logits": self._pretrained(mix(first, second, patch))}
        unlabeled_first, unlabeled_second = _halves(unlabeled, "unlabeled")
        mixed = self._mixed(mix(unlabeled_first, first, patch), mix(second, unlabeled_second, patch))
        return {"patch": patch, **mixed, "pseudo_label": self._pseudo_label(self.teacher_logits(batch))}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss`` and its parts: ``loss_supervised``, over pixels with a label, and before its weight ``loss_pseudo``.

        In the first phase there is no pseudo-label.
        """
        patch = outputs["patch"]
        first, second = _halves(batch["labeled"]["label"], "labeled")
        if "mixed_logits" in outputs:
            logits = outputs["mixed_logits"]
            supervised = self._part(logits, first, ~patch) + self._part(logits, second, patch)
            return {"loss": supervised, "loss_supervised": supervised}
        pseudo_first, pseudo_second = _halves(outputs["pseudo_label"], "unlabeled")
        inward, outward = outputs["in_logits"], outputs["out_logits"]
        supervised = self._part(inward, first, patch) + self._part(outward, second, ~patch)
        pseudo = self._part(inward, pseudo_first, ~patch) + self._part(outward, pseudo_second, patch)
        total = supervised + self.ramp * self.unlabeled_weight * pseudo
        return {"loss": total, "loss_supervised": supervised, "loss_pseudo": pseudo}

    def after_step(self) -> None:
        """Moves the teacher; at the end of the first phase it becomes a copy of the student."""
        super().after_step()
        if self.pretrain_fraction < 1 and self.updates == self.share_of_run(self.pretrain_fraction):
            ema_update(self.teacher, self.student, 0.0)

    def _part(self, logits: Tensor, codes: Tensor, where: Tensor) -> Tensor:
        return segmentation_loss(logits, codes, self.unannotated, where, self.dice_weight)

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        if self.full_width and self.patch_ratio > 0:
            return int(self.patch_ratio**2 * height), width
        return int(self.patch_ratio * height), int(self.patch_ratio * width)

    def _pretrained(self, picture: Tensor) -> Tensor:
        """Logits of a picture of the first phase."""
        return self.networks["student"](picture)

    def _mixed(self, inward: Tensor, outward: Tensor) -> dict[str, Tensor]:
        """``in_logits`` and ``out_logits`` of the pictures of the second phase."""
        student = self.networks["student"]
        if self.batch_statistics == "separate":
            return {"in_logits": student(inward), "out_logits": student(outward)}
        logits = student(torch.cat((inward, outward)))
        return {"in_logits": logits[: len(inward)], "out_logits": logits[len(inward) :]}

    @torch.no_grad()
    def _pseudo_label(self, logits: Tensor) -> Tensor:
        codes = mask_unannotated(logits, self.unannotated).argmax(dim=1, keepdim=True)
        return largest_components(codes, logits.shape[1]) if self.largest_component else codes


def _halves(items: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The batch in two halves of equal size.

    Raises:
        ValueError: an odd number of slices.
    """
    if len(items) % 2:
        raise ValueError(f"{len(items)} {name} slices in a batch; expected an even number: set batch_size_{name}")
    first, second = items.chunk(2)
    return first, second
