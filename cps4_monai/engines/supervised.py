"""The trainer of pretraining: MONAI's, with the gradient scaler that the precision needs."""

from __future__ import annotations

from typing import Any

from monai.engines import SupervisedTrainer
from monai.engines.workflow import Workflow

from cps4_monai.precision import Precision


class PrecisionTrainer(SupervisedTrainer):
    """``SupervisedTrainer`` on any device; the autocast itself is that of a ``PrecisionInferer``.

    MONAI's own ``amp`` means ``torch.autocast("cuda")`` with float16 and a scaler for CUDA. Here it stands for the
    scaler alone: the type follows the device, the loss is computed in float32.

    Args:
        precision: where it is not ``scaled``, gradients are not either; None: float32.
        **trainer: as ``SupervisedTrainer``, without ``amp`` and ``amp_kwargs``.

    Raises:
        TypeError: an argument that ``SupervisedTrainer`` does not have.
    """

    def __init__(self, *, precision: Precision | None = None, **trainer: Any) -> None:
        self.precision = Precision() if precision is None else precision  # handlers may look at it when attached
        super().__init__(amp=self.precision.scaled, amp_kwargs={"enabled": False}, **trainer)
        self.scaler = self.precision.new_scaler()  # MONAI knows CUDA's only

    def run(self) -> None:
        """Trains until ``max_epochs``; unlike MONAI's, keeps the scaler that fits the device."""
        Workflow.run(self)
