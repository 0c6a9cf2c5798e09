"""Which products a model makes of a turned tensor: without gradients torch makes them slice by slice on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = {F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}


class TurnedProducts(TorchFunctionMode):
    """Notes products of a tensor of three or more axes, which does not lie together, with a matrix.

    Attributes:
        count: of products with a matrix.
        turned: shapes of those tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count, self.turned = 0, list[tuple[int, ...]]()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in PRODUCTS and args[0].dim() > 2 and args[1].dim() == 2:
            self.count += 1
            if not args[0].is_contiguous():
                self.turned.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))
