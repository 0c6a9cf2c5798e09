"""Pseudo-labels whose levels are decoded over whole volumes: `mt_decoded` and `cps4_plus`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import supervised_cross_entropy, text_cross_entropy
from cps4_monai.methods.base import Batch
from cps4_monai.methods.teacher_student import TeacherStudent


class DecodedPseudoLabels(TeacherStudent):
    """Pseudo-labels whose levels are decoded: L_sup + weight * CE(student, decoded pseudo-label).

    :class:`cps4_monai.handlers.DecodedLabels` makes the pseudo-labels: every few epochs the teacher segments all
    unlabeled volumes, alone (`mt_decoded`) or with the attention maps of the prompts (`cps4_plus`), and the levels of
    each volume are decoded. They come with the batch: no teacher runs in a step, and none waits for the device.

    Args:
        student: the network to train.
        optimizer: of its parameters.
        decoded_weight: of the cross-entropy with the decoded pseudo-labels.
        **teacher_student: `unannotated`, `ema_decay`, `ramp_up_updates` and `deployed` of :class:`TeacherStudent`.

    Raises:
        ValueError: a negative weight, and as :class:`TeacherStudent`.
    """

    source: ClassVar[str] = "of this project"

    def __init__(
        self, student: nn.Module, optimizer: Optimizer, decoded_weight: float = 1.0, **teacher_student: Any
    ) -> None:
        if decoded_weight < 0:
            raise ValueError(f"decoded_weight is {decoded_weight}; expected a number of at least 0")
        super().__init__(student, optimizer, **teacher_student)
        self.decoded_weight = decoded_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``labeled_logits`` and ``unlabeled_logits``, each (B, C, H, W)."""
        return self.student_logits(batch)

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised`` and ``loss_decoded``, the latter before its weight.

        Raises:
            ValueError: a batch without decoded pseudo-labels.
        """
        target = decoded_map_of(batch)
        supervised = supervised_cross_entropy(outputs["labeled_logits"], batch["labeled"]["label"], self.unannotated)
        decoded = text_cross_entropy(outputs["unlabeled_logits"], target, self.unannotated)
        total = supervised + self.ramp * self.decoded_weight * decoded
        return {"loss": total, "loss_supervised": supervised, "loss_decoded": decoded}


def decoded_map_of(batch: Batch) -> Tensor:
    """The decoded pseudo-labels (B, 1, H, W) of a batch.

    Raises:
        ValueError: it has none.
    """
    if "decoded_map" not in batch["unlabeled"]:
        raise ValueError("the unlabeled batch holds no decoded_map; attach DecodedLabels to the trainer")
    return batch["unlabeled"]["decoded_map"]
