"""Stage 2 of VESSA (Guo et al., arXiv 2511.19759): UniMatch V2 whose targets a frozen assistant helps to make.

How teacher and assistant are fused, and when the assistant begins to listen, is not published: what is here is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import text_cross_entropy
from cps4_monai.methods.base import Batch
from cps4_monai.methods.unimatch_v2 import UniMatchV2
from cps4_monai.networks.composite import MaskedFeatures

FUSIONS = ("mix", "additional")
AGREEMENTS = ("agreement", "structure_agreement")


class VESSA(UniMatchV2):
    """UniMatch V2 on targets of teacher and assistant: the assistant leads early, the teacher late.

    The target is m = g q_T + (1 - g) q_V with g = t / T; q_T is the teacher's softmax, q_V what
    :class:`cps4_monai.vessa.AssistantProvider` says. From a share of the run on the provider is told what the student
    sees. The teacher is deployed, never the assistant.

    Args:
        student: :class:`cps4_monai.networks.MaskedFeatures` around the network to train.
        optimizer: of its parameters.
        teacher_share: g, in [0, 1]; None: t / T.
        feedback_from: share of the run from which the assistant listens to the student; None: never.
        fusion: "mix", the target m; "additional", UniMatch V2's own loss plus (1 - g) times the cross-entropy with the
            assistant's confident labels.
        **unimatch: further arguments of :class:`cps4_monai.methods.UniMatchV2`.

    Raises:
        ValueError: a share outside [0, 1], an unknown fusion, and as :class:`cps4_monai.methods.UniMatchV2`.
    """

    source: ClassVar[str] = "Guo et al., arXiv 2511.19759 (weakly sourced: outline only; fusion and schedule ours)"
    needs: ClassVar[tuple[str, ...]] = ("stage 1, trained with the overlay vessa: its assistant",)
    budget_notes: tuple[str, ...] = (
        *UniMatchV2.budget_notes,
        "a frozen assistant segments each unlabeled slice; with feedback after one more pass of the student",
    )

    def __init__(
        self,
        student: MaskedFeatures,
        optimizer: Optimizer,
        teacher_share: float | None = None,
        feedback_from: float | None = 0.3,
        fusion: str = "mix",
        **unimatch: Any,
    ) -> None:
        for name, share in (("teacher_share", teacher_share), ("feedback_from", feedback_from)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; expected a share from 0 to 1, or null. Fix: choose one")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; expected one of {list(FUSIONS)}. Fix: choose one")
        super().__init__(student, optimizer, **unimatch)
        self.teacher_share = teacher_share
        self.feedback_from = feedback_from
        self.fusion = fusion

    @property
    def needs_prompt_map(self) -> bool:
        """Whether the assistant is asked: not where the teacher's share is fixed at 1."""
        return self.teacher_share != 1

    @property
    def present_share(self) -> float:
        """g of the coming step, in [0, 1]; it stays at 1 where a run was made longer than it began."""
        return min(1.0, self.updates / self.share_of_run(1.0)) if self.teacher_share is None else self.teacher_share

    def feedback(self, images: Tensor) -> Tensor | None:
        """What the assistant is told of pictures (B, 1, H, W): nothing before `feedback_from`."""
        if self.feedback_from is None or self.updates < self.share_of_run(self.feedback_from):
            return None
        return self.student_probabilities(images)

    def targets(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those of UniMatch V2, made of both, and how far both agree.

        ``agreement`` is the share of pixels to which teacher and assistant give one name, ``structure_agreement`` that
        share of the pixels in which either of them sees a structure.
        """
        teacher = self.teacher_probabilities(batch)
        if not self.needs_prompt_map:
            return self.confident_labels(teacher), {}
        assistant = self._assistant(batch, teacher)
        share = self.present_share
        logs = _agreement(teacher, assistant)
        if self.fusion == "mix":
            return self.confident_labels(share * teacher + (1 - share) * assistant), logs
        of_assistant = {f"assistant_{name}": value for name, value in self.confident_labels(assistant).items()}
        return {**self.confident_labels(teacher), **of_assistant}, logs

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Those of UniMatch V2 and the agreement; of the fusion "additional" also ``loss_assistant``, unweighted."""
        parts = super().losses(outputs, batch)
        if "assistant_pseudo_label" in outputs:
            confident = (outputs["assistant_confidence"] >= self.threshold).float()
            logits, codes = outputs["unlabeled_logits"], outputs["assistant_pseudo_label"]
            parts["loss_assistant"] = text_cross_entropy(logits, codes, self.unannotated, confident)
            weight = (1 - self.present_share) * self.ramp * self.unlabeled_weight
            parts["loss"] = parts["loss"] + weight * parts["loss_assistant"]
        return {**parts, **{key: outputs[key] for key in AGREEMENTS if key in outputs}}

    def _assistant(self, batch: Batch, teacher: Tensor) -> Tensor:
        """q_V, (B, C, H, W) float32.

        Raises:
            ValueError: no provider put it into the batch, or one of other slices or classes.
        """
        given = batch["unlabeled"].get("pseudo_probabilities")
        if given is None or given.shape != teacher.shape:
            holds = "no pseudo_probabilities" if given is None else f"pseudo_probabilities {tuple(given.shape)}"
            raise ValueError(
                f"the unlabeled batch holds {holds}; expected {tuple(teacher.shape)} of the assistant. Fix: attach "
                "PromptMapHandler with cps4_monai.vessa.AssistantProvider to the trainer, as the overlay vessa does"
            )
        return given.float()


@torch.no_grad()
def _agreement(teacher: Tensor, assistant: Tensor) -> dict[str, Tensor]:
    """Scalars, see :meth:`VESSA.targets`; 0 where nobody sees a structure."""
    mine, theirs = teacher.argmax(dim=1), assistant.argmax(dim=1)
    same, structure = mine == theirs, (mine > 0) | (theirs > 0)
    of_structures = (same & structure).sum() / structure.sum().clamp(min=1)
    return dict(zip(AGREEMENTS, (same.float().mean(), of_structures), strict=True))
