"""CPS4, stage 2: class-prompt-driven semi-supervised segmentation (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import (
    TARGET_MODES,
    enhance_cross_entropy,
    enhanced_target,
    supervised_cross_entropy,
    text_cross_entropy,
)
from cps4_monai.methods.base import Batch
from cps4_monai.methods.teacher_student import TeacherStudent


class CPS4(TeacherStudent):
    """(L_text + L_enhance) / 2 + L_sup, eqs. 5 to 7.

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
                "one of them above: with both 0 use the method 'supervised'"
            )
        if enhanced_target not in TARGET_MODES:
            raise ValueError(f"enhanced_target is {enhanced_target!r}; expected one of {list(TARGET_MODES)}")
        super().__init__(student, optimizer, **teacher_student)
        self.text_weight = text_weight
        self.enhance_weight = enhance_weight
        self.target_mode = enhanced_target

    @property
    def needs_prompt_map(self) -> bool:
        """False for `mt_ce` only."""
        return self.text_weight > 0 or self.target_mode != "teacher"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits``, ``unlabeled_logits`` and, if L_enhance counts, ``teacher_logits``, each (B, C, H, W)."""
        outputs = self.student_logits(batch)
        if self.enhance_weight > 0:
            outputs["teacher_logits"] = self.teacher_logits(batch)
        return outputs

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised`` and, each before its weight, ``loss_text`` and ``loss_enhance``."""
        prompt_map = batch["unlabeled"].get("prompt_map")
        if prompt_map is None and self.needs_prompt_map:
            raise ValueError("the unlabeled batch holds no prompt_map; attach PromptMapHandler to the trainer")
        student = outputs["unlabeled_logits"]
        parts = {
            "loss_supervised": supervised_cross_entropy(
                outputs["labeled_logits"], batch["labeled"]["label"], self.unannotated
            )
        }
        total, ramp = parts["loss_supervised"], self.ramp
        if self.text_weight > 0:
            parts["loss_text"] = text_cross_entropy(student, prompt_map, self.unannotated)
            total = total + ramp * self.text_weight * parts["loss_text"]
        if self.enhance_weight > 0:
            target = enhanced_target(outputs["teacher_logits"], prompt_map, self.target_mode, self.unannotated)
            parts["loss_enhance"] = enhance_cross_entropy(student, target, self.unannotated)
            total = total + ramp * self.enhance_weight * parts["loss_enhance"]
        return {"loss": total, **parts}
