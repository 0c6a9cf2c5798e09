"""UCMT whose students also learn from pseudo-labels with decoded levels: `ucmt_decoded`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import text_cross_entropy
from cps4_monai.methods.base import Batch
from cps4_monai.methods.decoded import decoded_map_of
from cps4_monai.methods.ucmt import UCMT
from cps4_monai.networks.composite import StudentPair


class DecodedUCMT(UCMT):
    """L_UCMT + decoded_weight * ramp * L_decoded: UCMT, and decoded pseudo-labels for both students.

    L_decoded is the sum over the students of the cross-entropy with the teacher's labels after their levels were
    decoded over whole volumes (:class:`cps4_monai.handlers.DecodedLabels`), as L_sup is a sum over them. In the second
    step of a batch the decoded labels are exchanged with the patches. Before the first decoding it is 0, and so it is
    for volumes whose numbering is not sure enough: there the method is :class:`UCMT`.

    Args:
        student: :class:`cps4_monai.networks.StudentPair`.
        optimizer: of the parameters of both.
        decoded_weight: of L_decoded.
        **ucmt: further arguments of :class:`UCMT`.

    Raises:
        ValueError: a negative weight, and as :class:`UCMT`.
    """

    source: ClassVar[str] = "of this project, on UCMT (Shen et al., IJCAI 2023)"
    exchanged_keys: ClassVar[tuple[str, ...]] = (*UCMT.exchanged_keys, "decoded_map")

    def __init__(self, student: StudentPair, optimizer: Optimizer, decoded_weight: float = 1.0, **ucmt: Any) -> None:
        if decoded_weight < 0:
            raise ValueError(f"decoded_weight is {decoded_weight}; expected a number of at least 0")
        super().__init__(student, optimizer, **ucmt)
        self.decoded_weight = decoded_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What :class:`UCMT` returns, and ``decoded_map`` (B, 1, H, W) of the step.

        Raises:
            ValueError: a batch without decoded pseudo-labels.
        """
        return {"decoded_map": decoded_map_of(batch), **super().forward(batch)}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """What :class:`UCMT` returns, and ``loss_decoded`` (sum over students) before its weight."""
        parts = super().losses(outputs, batch)
        first, second = (
            text_cross_entropy(outputs[f"{name}_unlabeled_logits"], outputs["decoded_map"], self.unannotated)
            for name in ("first", "second")
        )
        parts["loss_decoded"] = first + second
        return {**parts, "loss": parts["loss"] + self.ramp * self.decoded_weight * parts["loss_decoded"]}
