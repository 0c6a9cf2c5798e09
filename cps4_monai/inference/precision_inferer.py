"""Mixed precision for MONAI's supervised engines, on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from cps4_monai.precision import Precision


class PrecisionInferer(Inferer):
    """Runs another inferer under the autocast of the device; the output is float32 again.

    ``SupervisedTrainer`` and ``SupervisedEvaluator`` know ``torch.autocast("cuda")`` only; their own ``amp`` stays off.

    Args:
        precision: decides the type.
        inferer: what runs the network; MONAI's ``SimpleInferer`` by default.
    """

    def __init__(self, precision: Precision, inferer: Inferer | None = None) -> None:
        super().__init__()
        self.precision = precision
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """As the inner inferer's."""
        with self.precision.autocast():
            output: Tensor = self.inferer(inputs, network, *args, **kwargs)
        return output.float()
