"""Mixed precision for MONAI's supervised engines on devices other than CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from cps4_monai.engines.precision import Precision


class PrecisionInferer(Inferer):
    """Runs another inferer under the autocast of the device; the output is float32 again.

    ``SupervisedTrainer`` and ``SupervisedEvaluator`` know ``torch.autocast("cuda")`` only; on a GPU their own ``amp``
    is used and this one passes through.

    Args:
        device: where the network is.
        amp: whether to compute in mixed precision.
        inferer: what runs the network; MONAI's ``SimpleInferer`` by default.
    """

    def __init__(self, device: torch.device, amp: bool = False, inferer: Inferer | None = None) -> None:
        super().__init__()
        self.precision = Precision(torch.device(device), amp and torch.device(device).type != "cuda")
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """As the inner inferer's."""
        with self.precision.autocast():
            output = self.inferer(inputs, network, *args, **kwargs)
        return output.float()
