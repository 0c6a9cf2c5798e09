"""DuSSS, stage 2 (Pan et al., AAAI 2025): a mean teacher whose pseudo-labels a text-guided decoder shares.

Here for many classes, and with all class prompts in place of a text for each picture. Written from the paper's
formulas; the public code, QingtaoPan/DuSSS, has no licence and disagrees with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.captions import annotated_classes, occurrence
from cps4_monai.losses.dice import check_dice_weight, segmentation_loss
from cps4_monai.losses.semi_supervised import IGNORE, annotated_codes, mask_unannotated, ramp_up
from cps4_monai.losses.similarity_supervision import info_nce
from cps4_monai.methods.base import Batch
from cps4_monai.methods.pixel_affinity import pixel_affinity
from cps4_monai.methods.teacher_student import TeacherStudent
from cps4_monai.networks.ema import unwrap
from cps4_monai.networks.text_guided import Said, TextMasks


class DuSSS(TeacherStudent):
    """Mean teacher and a text-guided decoder over a frozen encoder make one pseudo-label together.

    (L(student, label) + ramp L(student, m) + L(text, label) + ramp L(text, teacher) + contrast) / 2, L being
    cross-entropy and Dice. m is the argmax of g p_text + (1 - g) p_teacher, where p_text has been through a filter that
    follows the picture's edges. The decoder reads the frozen image side of stage 1, asks for all classes by their
    prompts, and is neither validated nor shipped. The teacher is deployed, as in every comparison here; the authors
    deploy the student.

    Args:
        student: :class:`cps4_monai.networks.TextGuided` around the network to train; without text, the network alone.
        optimizer: of its parameters.
        vision: the frozen image side of stage 1; in no checkpoint of this stage. None: without text.
        text_share: g, in [0, 1].
        text_weight: of the decoder's losses; 0 with ``text_share=0`` is the hard-label mean teacher.
        unlabeled_weight: of both losses on unlabeled slices.
        contrast_weight: of the decoder's features, pooled by its masks, against the prompts.
        temperature: of that contrast.
        dice_weight: of soft Dice in L, in [0, 1].
        affinity_rounds: of the filter; 0 is none.
        affinity_dilations: distances of its neighbours, in pixels of the decoder's grid.
        ramp_share: of the run, over which the losses on unlabeled slices grow; 0: they count in full at once.
            Pseudo-labels are hard, and those of an untrained network call all pixels background.
        **teacher_student: `unannotated`, `ema_decay`, `deployed` and `batch_statistics` of :class:`TeacherStudent`.

    Raises:
        ValueError: numbers out of range, text without weight, text without its parts, and as :class:`TeacherStudent`.
    """

    source: ClassVar[str] = "Pan et al., AAAI 2025, arXiv 2412.12492 (weakly sourced: paper and public code disagree)"
    needs: ClassVar[tuple[str, ...]] = ("stage 1: its frozen image side",)
    budget_notes = (
        "a text-guided decoder",
        "the frozen vision encoder on labeled and unlabeled slices",
        "a pixel-affinity filter",
    )

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        vision: Any | None = None,
        text_share: float = 0.5,
        text_weight: float = 1.0,
        unlabeled_weight: float = 1.0,
        contrast_weight: float = 0.1,
        temperature: float = 0.07,
        dice_weight: float = 0.5,
        affinity_rounds: int = 10,
        affinity_dilations: Sequence[int] = (1, 2),
        ramp_share: float = 1.0,
        **teacher_student: Any,
    ) -> None:
        check_dice_weight(dice_weight)
        _check_numbers({"text_share": text_share, "ramp_share": ramp_share}, temperature)
        _check_weights(text_share, text_weight, unlabeled_weight, contrast_weight, affinity_rounds)
        given = {vision is not None, hasattr(unwrap(student), "text_decoder")}
        if given != {text_weight > 0}:
            raise ValueError(
                f"text_weight is {text_weight}, vision a {type(vision).__name__}, student a "
                f"{type(unwrap(student)).__name__}; expected vision and a student in cps4_monai.networks.TextGuided "
                "where text_weight is above 0, and neither where it is 0"
            )
        super().__init__(student, optimizer, **teacher_student)
        self.vision = vision
        self.text_share = text_share
        self.text_weight = text_weight
        self.unlabeled_weight = unlabeled_weight
        self.contrast_weight = contrast_weight
        self.temperature = temperature
        self.dice_weight = dice_weight
        self.affinity_rounds = affinity_rounds
        self.affinity_dilations = tuple(affinity_dilations)
        self.ramp_share = ramp_share

    @property
    def ramp(self) -> float:
        """Present factor of the losses on unlabeled slices, in (0, 1]."""
        return ramp_up(self.updates, self.share_of_run(self.ramp_share)) if self.ramp_share > 0 else 1.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits``, ``unlabeled_logits``, ``teacher_logits`` (B, C, H, W), ``pseudo_label`` (B, 1, H, W).

        With text also ``text_labeled_logits`` and ``text_unlabeled_logits`` (B, C, 4 h, 4 w), and of the labeled slices
        ``text_features`` (B, D, 4 h, 4 w), ``text_prompts`` (C, D).
        """
        outputs = {**self.student_logits(batch), "teacher_logits": self.teacher_logits(batch)}
        if self.text_weight > 0:
            outputs.update(self._text(batch))
        return {**outputs, "pseudo_label": self._pseudo_label(outputs, batch["unlabeled"]["image"])}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``; ``loss_supervised``, ``loss_pseudo`` of the student and, of the decoder, ``loss_text`` and more.

        ``loss_text`` is that of labels, ``loss_text_teacher`` that of the teacher's, ``loss_text_contrast`` that of the
        prompts; all before weights and ramp.
        """
        label, unlabeled = batch["labeled"]["label"], self.ramp * self.unlabeled_weight
        supervised = self._segmentation(outputs["labeled_logits"], label)
        pseudo = self._segmentation(outputs["unlabeled_logits"], outputs["pseudo_label"])
        parts, total = {"loss_supervised": supervised, "loss_pseudo": pseudo}, supervised + unlabeled * pseudo
        if self.text_weight > 0:
            by_teacher = mask_unannotated(outputs["teacher_logits"], self.unannotated).argmax(dim=1, keepdim=True)
            text = self._of_text(outputs["text_labeled_logits"], label)
            teacher = self._of_text(outputs["text_unlabeled_logits"], by_teacher)
            contrast = self._contrast(outputs, label)
            parts |= {"loss_text": text, "loss_text_teacher": teacher, "loss_text_contrast": contrast}
            total = total + self.text_weight * (text + unlabeled * teacher + self.contrast_weight * contrast)
        return {"loss": total / 2, **parts}

    def _text(self, batch: Batch) -> dict[str, Tensor]:
        """The decoder's masks of labeled and, by their weak view, unlabeled slices, in one pass."""
        labeled = batch["labeled"]["image"]
        with torch.no_grad():
            tokens = self.vision.project(torch.cat((labeled, batch["unlabeled"]["image"])))  # type: ignore[union-attr]
            said = Said(tokens, self.vision.logits(tokens), self.vision.embeddings)  # type: ignore[union-attr]
        masks: TextMasks = self.networks["student"](said=said)
        return {
            "text_labeled_logits": masks.logits[: len(labeled)],
            "text_unlabeled_logits": masks.logits[len(labeled) :],
            "text_features": masks.features[: len(labeled)],
            "text_prompts": masks.prompts,
        }

    @torch.no_grad()
    def _pseudo_label(self, outputs: Mapping[str, Tensor], image: Tensor) -> Tensor:
        """m, (B, 1, H, W) int64."""
        teacher = mask_unannotated(outputs["teacher_logits"], self.unannotated).softmax(dim=1)
        if self.text_share == 0:
            return teacher.argmax(dim=1, keepdim=True)
        text = mask_unannotated(outputs["text_unlabeled_logits"], self.unannotated).softmax(dim=1)
        text = pixel_affinity(text, image, self.affinity_rounds, self.affinity_dilations)
        return fuse(text, teacher, self.text_share).argmax(dim=1, keepdim=True)

    def _segmentation(self, logits: Tensor, codes: Tensor) -> Tensor:
        return segmentation_loss(logits, codes, self.unannotated, dice_weight=self.dice_weight)

    def _of_text(self, logits: Tensor, codes: Tensor) -> Tensor:
        return self._segmentation(_upsample(logits, codes.shape[2:]), codes)

    def _contrast(self, outputs: Mapping[str, Tensor], label: Tensor) -> Tensor:
        """InfoNCE of the features that each shown class's mask holds of a slice with the prompts of all classes.

        Cells without an annotated pixel are left out of the masks.
        """
        features, prompts = outputs["text_features"], outputs["text_prompts"]
        with torch.autocast(features.device.type, enabled=False):
            masks = mask_unannotated(outputs["text_labeled_logits"], self.unannotated).softmax(dim=1)
            annotated_pixels = annotated_codes(label, len(prompts), self.unannotated) != IGNORE
            masks = masks * F.adaptive_max_pool2d(annotated_pixels[:, None].float(), masks.shape[2:])
            held = F.normalize(torch.einsum("bchw,bdhw->bcd", masks, features), dim=2)
            shown = occurrence(label, len(prompts), (1, 1), self.unannotated).flatten(2)  # (B, C, 1)
            own = torch.eye(len(prompts), dtype=torch.bool, device=label.device) & shown
            annotated = annotated_classes(len(prompts), self.unannotated, label.device)
            return info_nce((held @ prompts.T).flatten(0, 1), own.flatten(0, 1), self.temperature, annotated)


def fuse(text: Tensor, teacher: Tensor, share: float) -> Tensor:
    """share * text + (1 - share) * teacher, (B, C, H, W) probabilities; the text's are upsampled to the teacher's size.

    The paper prints sigmoid(teacher + text), which of two probabilities lies between 0.5 and 0.88: all foreground.
    """
    return share * _upsample(text, teacher.shape[2:]) + (1 - share) * teacher


def _upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps.float(), size=(int(size[0]), int(size[1])), mode="bilinear", align_corners=False)


def _check_numbers(shares: Mapping[str, float], temperature: float) -> None:
    """Refuses shares outside [0, 1] and a temperature that is not positive.

    Raises:
        ValueError: as said.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; expected a share from 0 to 1")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number, as 0.07")


def _check_weights(share: float, text: float, *others: float) -> None:
    """Refuses negative numbers, and text that would be used without being trained.

    Raises:
        ValueError: as said.
    """
    if min(text, *others) < 0:
        raise ValueError(
            f"text_weight is {text}, unlabeled_weight, contrast_weight and affinity_rounds are {list(others)}; "
            "expected numbers of at least 0"
        )
    if share > 0 and text == 0:
        raise ValueError(f"text_share is {share} and text_weight 0: nothing would train the decoder; set both to 0")
