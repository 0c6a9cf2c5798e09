"""CPS4, stage 2: class-prompt-driven semi-supervised segmentation (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import (
    TARGET_MODES,
    enhance_cross_entropy,
    enhanced_target,
    mask_unannotated,
    supervised_cross_entropy,
    text_cross_entropy,
)
from cps4_monai.methods.base import Batch
from cps4_monai.methods.teacher_student import TeacherStudent


class CPS4(TeacherStudent):
    """Class prompts as pseudo-labels beside a teacher: (L_text + L_enhance) / 2 + L_sup, eqs. 5 to 7.

    The ablations are settings: a term of weight 0 is dropped, and what only it needs is not computed; the other keeps
    its weight 1/2. `mt_ce`, the reference of the ablation, is ``text_weight=0, enhanced_target="teacher"``: y_text is
    gone from both terms, no prompt map is asked for, and what remains is Mean Teacher with a cross-entropy.

    Args:
        student: the network to train.
        optimizer: of its parameters.
        text_weight: of L_text.
        enhance_weight: of L_enhance.
        enhanced_target: how teacher and y_text become one target: "soft", "hard", "sum" or "teacher" (row 9).
        **teacher_student: `unannotated`, `ema_decay`, `ramp_up_updates` and `deployed` of :class:`TeacherStudent`.

    Raises:
        ValueError: a negative weight, both weights 0, an unknown target, and as :class:`TeacherStudent`.
    """

    source: ClassVar[str] = "Pan et al., arXiv 2606.15802"

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        text_weight: float = 0.5,
        enhance_weight: float = 0.5,
        enhanced_target: str = "soft",
        **teacher_student: Any,
    ) -> None:
        if min(text_weight, enhance_weight) < 0 or text_weight == enhance_weight == 0:
            raise ValueError(
                f"text_weight is {text_weight}, enhance_weight {enhance_weight}; expected numbers of at least 0, "
                "one of them above 0: with both 0 use the method 'supervised'"
            )
        if enhanced_target not in TARGET_MODES:
            raise ValueError(f"enhanced_target is {enhanced_target!r}; expected one of {list(TARGET_MODES)}")
        super().__init__(student, optimizer, **teacher_student)
        self.text_weight = text_weight
        self.enhance_weight = enhance_weight
        self.target_mode = enhanced_target

    @property
    def needs_prompt_map(self) -> bool:
        """Whether a loss reads the provider's answer: the prompt map, or the attention maps that come with it."""
        return bool(self._needed)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits``, ``unlabeled_logits`` and, if L_enhance counts, ``teacher_logits``, each (B, C, H, W)."""
        outputs = self.student_logits(batch)
        if self.enhance_weight > 0:
            outputs["teacher_logits"] = self.teacher_logits(batch)
        return outputs

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised`` and, each before its weight, ``loss_text`` and ``loss_enhance``.

        Where y_text is part of the enhanced target, ``map_decides_fraction`` is the share of pixels whose target is
        another class than the teacher's: what the prompt map changes.
        """
        unlabeled = batch["unlabeled"]
        missing = [key for key in ("prompt_map", "attention_logits") if key in self._needed and key not in unlabeled]
        if missing:
            raise ValueError(f"the unlabeled batch holds no {missing[0]}; attach PromptMapHandler to the trainer")
        student = outputs["unlabeled_logits"]
        parts = {
            "loss_supervised": supervised_cross_entropy(
                outputs["labeled_logits"], batch["labeled"]["label"], self.unannotated
            )
        }
        total, ramp = parts["loss_supervised"], self.ramp
        if self.text_weight > 0:
            parts["loss_text"] = self._text(student, unlabeled)
            total = total + ramp * self.text_weight * parts["loss_text"]
        if self.enhance_weight > 0:
            prompt_map = unlabeled.get("prompt_map")
            target = enhanced_target(outputs["teacher_logits"], prompt_map, self.target_mode, self.unannotated)
            parts["loss_enhance"] = enhance_cross_entropy(student, target, self.unannotated)
            if self.target_mode != "teacher":
                parts["map_decides_fraction"] = self._decided(outputs["teacher_logits"], target)
            total = total + ramp * self.enhance_weight * parts["loss_enhance"]
        return {"loss": total, **parts}

    @property
    def _needed(self) -> set[str]:
        """What the losses read of the provider's answer."""
        of_text = self._of_text if self.text_weight > 0 else ()
        of_target = ("prompt_map",) if self.enhance_weight > 0 and self.target_mode != "teacher" else ()
        return {*of_text, *of_target}

    @property
    def _of_text(self) -> tuple[str, ...]:
        return ("prompt_map",)

    def _text(self, student: Tensor, unlabeled: Mapping[str, Tensor]) -> Tensor:
        """L_text, eq. 6."""
        return text_cross_entropy(student, unlabeled["prompt_map"], self.unannotated)

    @torch.no_grad()
    def _decided(self, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """Share of pixels, a scalar."""
        of_teacher = mask_unannotated(teacher_logits, self.unannotated).argmax(dim=1)
        return (target.argmax(dim=1) != of_teacher).float().mean()
