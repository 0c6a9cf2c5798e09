"""UniMatch V2 (Yang et al., arXiv 2410.10777): two strong views with complementary dropout of features.

Its published encoder (DINOv2) is not used: this is the training scheme on the project's ResUNet. Read with the authors'
code, LiheYoung/UniMatch-V2 (MIT); nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import mask_unannotated, supervised_cross_entropy, text_cross_entropy
from cps4_monai.methods.base import Batch
from cps4_monai.methods.mixing import mix, random_rectangles
from cps4_monai.methods.teacher_student import TeacherStudent
from cps4_monai.networks.composite import MaskedFeatures, deployable

STRONG = ("image_strong", "image_strong_2")


class UniMatchV2(TeacherStudent):
    """(L_x + (L_s1 + L_s2) / 2) / 2: labels, and the teacher's confident labels on two strong views.

    Both strong views get CutMix within the batch and, between encoder and decoder, complementary channel dropout: what
    is dropped in one view counts twice in the other. L_si is the mean over all pixels of the cross-entropy with the
    teacher's hard label, 0 where its confidence is below the threshold: the share of confident pixels is the ramp.

    Args:
        student: :class:`cps4_monai.networks.MaskedFeatures` around the network to train.
        optimizer: of its parameters.
        threshold: least confidence of a pixel that counts.
        cutmix_probability: share of slices of each strong view into which a rectangle of another slice is put.
        dropped_share: share of slices whose features are masked.
        unlabeled_weight: of (L_s1 + L_s2) / 2.
        **teacher_student: further arguments of :class:`TeacherStudent`.

    Raises:
        ValueError: a share outside [0, 1], a negative weight or threshold, and as :class:`TeacherStudent`.
        TypeError: a student that takes no masks.
    """

    source: ClassVar[str] = "Yang et al., arXiv 2410.10777; code read: LiheYoung/UniMatch-V2 (MIT)"
    strong_views: ClassVar[int] = len(STRONG)
    budget_notes: tuple[str, ...] = ("two strong views of each unlabeled slice",)

    def __init__(
        self,
        student: MaskedFeatures,
        optimizer: Optimizer,
        threshold: float = 0.95,
        cutmix_probability: float = 0.5,
        dropped_share: float = 0.5,
        unlabeled_weight: float = 1.0,
        **teacher_student: Any,
    ) -> None:
        if not 0 <= min(cutmix_probability, dropped_share) <= max(cutmix_probability, dropped_share) <= 1:
            raise ValueError(
                f"cutmix_probability is {cutmix_probability}, dropped_share {dropped_share}; expected shares, 0 to 1"
            )
        if min(threshold, unlabeled_weight) < 0:
            raise ValueError(
                f"threshold is {threshold}, unlabeled_weight {unlabeled_weight}; expected numbers of at least 0"
            )
        super().__init__(student, optimizer, **teacher_student)
        if not hasattr(deployable(student), "features") or deployable(student) is student:
            raise TypeError(
                f"student is a {type(student).__name__}; expected cps4_monai.networks.MaskedFeatures around the network"
            )
        self.threshold = threshold
        self.cutmix_probability = cutmix_probability
        self.dropped_share = dropped_share
        self.unlabeled_weight = unlabeled_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits`` (B, C, H, W) and, of both strong views one after the other, ``unlabeled_logits``.

        With them come the targets as they were mixed, (2 B, 1, H, W): those of :meth:`targets`.
        """
        labeled, unlabeled = batch["labeled"]["image"], batch["unlabeled"]
        missing = [key for key in STRONG if key not in unlabeled]
        if missing:
            raise ValueError(f"the unlabeled batch holds no {missing}; make the views with strong_views: 2")
        targets, logs = self.targets(batch)
        mixed = [self._cutmix(unlabeled[key], *targets.values()) for key in STRONG]
        views, *of_views = (torch.cat(parts) for parts in zip(*mixed, strict=True))
        widths = self.student.features
        masks = complementary_masks(len(views) // 2, widths, self.dropped_share, views.device)  # type: ignore[arg-type]
        student = self.networks["student"]
        if self.batch_statistics == "separate":
            logits = {"labeled_logits": student(labeled), "unlabeled_logits": student(views, masks=masks)}
        else:
            masks = [torch.cat((mask.new_ones(len(labeled), *mask.shape[1:]), mask)) for mask in masks]
            together = student(torch.cat((labeled, views)), masks=masks)
            logits = {"labeled_logits": together[: len(labeled)], "unlabeled_logits": together[len(labeled) :]}
        return {**logits, **dict(zip(targets, of_views, strict=True)), **logs}

    def targets(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the strong views are to be called, of the weak view; and scalars to log beside it.

        Returns:
            ``pseudo_label`` (B, 1, H, W) int64 and ``confidence``, the teacher's; and nothing to log.
        """
        return self.confident_labels(self.teacher_probabilities(batch)), {}

    def teacher_probabilities(self, batch: Batch) -> Tensor:
        """q_T, (B, C, H, W) float32 of the weak view."""
        return mask_unannotated(self.teacher_logits(batch), self.unannotated).softmax(dim=1)

    @staticmethod
    def confident_labels(probabilities: Tensor) -> dict[str, Tensor]:
        """``pseudo_label`` (B, 1, H, W) int64 and ``confidence`` of probabilities (B, C, H, W)."""
        confidence, pseudo_label = probabilities.max(dim=1, keepdim=True)
        return {"pseudo_label": pseudo_label, "confidence": confidence}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised``, ``loss_strong`` = (L_s1 + L_s2) / 2, and the share of confident pixels."""
        supervised = supervised_cross_entropy(outputs["labeled_logits"], batch["labeled"]["label"], self.unannotated)
        confident = (outputs["confidence"] >= self.threshold).float()
        strong = text_cross_entropy(outputs["unlabeled_logits"], outputs["pseudo_label"], self.unannotated, confident)
        total = (supervised + self.ramp * self.unlabeled_weight * strong) / 2
        return {
            "loss": total,
            "loss_supervised": supervised,
            "loss_strong": strong,
            "confident_fraction": confident.mean(),
        }

    def _cutmix(self, view: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
        """View and targets, with the same rectangle of the slice at the batch's mirrored place in all."""
        boxes = random_rectangles(len(view), view.shape[2:], view.device)
        chosen = torch.rand(len(view), 1, 1, 1, device=view.device) < self.cutmix_probability
        boxes = boxes & chosen
        return tuple(mix(item, item.flip(0), boxes) for item in (view, *targets))


def complementary_masks(count: int, features: Sequence[int], share: float, device: torch.device) -> list[Tensor]:
    """Masks of channels for two views of each slice, whose mean over both views is 1.

    For a share of the slices (on average), the same ones on all levels, each channel is dropped in one view, at random,
    and doubled in the other; which channels is drawn for each level by itself. The other slices keep all of theirs.

    Args:
        count: slices, B.
        features: channels of each level.
        share: of slices that are masked, in [0, 1].
        device: where they are made.

    Returns:
        For each level (2 B, C, 1, 1) of 0, 1 and 2: those of the first view, then those of the second.
    """
    masks = []
    rank = torch.rand(count, device=device).argsort().argsort()
    masked = rank + torch.rand((), device=device) < count * share  # part of a slice: that often one more
    for channels in features:
        first = 2.0 * (torch.rand(count, channels, device=device) < 0.5)
        first = torch.where(masked[:, None], first, 1.0)
        masks.append(torch.cat((first, 2 - first))[:, :, None, None])
    return masks
