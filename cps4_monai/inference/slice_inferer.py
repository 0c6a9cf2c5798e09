"""Runs a 2-D network over the slices of a volume, several at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor


class SliceBatchInferer(Inferer):
    """Cuts a volume along its slice axis, feeds the network batches of slices and stacks what comes out.

    MONAI's `SliceInferer` slides a window and blends overlaps; here each slice goes in whole, once, and the network's
    output may have any in-plane size (attention logits on the patch grid, for instance).

    Args:
        batch_size: slices per forward pass.

    Raises:
        ValueError: a batch size below 1.
    """

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more slices")
        self.batch_size = batch_size

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Output of the network for every slice.

        Args:
            inputs: volumes, (B, channels, D, H, W), D being the slice axis.
            network: (n, channels, H, W) -> (n, C, h, w); further arguments are passed on to it.

        Returns:
            (B, C, D, h, w).

        Raises:
            ValueError: inputs that are not 5-D.
        """
        if inputs.ndim != 5:
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}; expected volumes (B, channels, D, H, W)")
        if isinstance(inputs, MetaTensor):  # meta data follow every operation; slices of one volume do not need them
            inputs = inputs.as_tensor()
        batch, channels, depth, height, width = inputs.shape
        slices = inputs.transpose(1, 2).reshape(batch * depth, channels, height, width)
        logits: Tensor | None = None
        for start in range(0, len(slices), self.batch_size):
            part = network(slices[start : start + self.batch_size], *args, **kwargs)
            if logits is None:
                # Filled in place, because a list of parts and their concatenation would need the memory twice.
                logits = part.new_empty((batch * depth, *part.shape[1:]))
            logits[start : start + len(part)] = part
        if logits is None:
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}: no slice in them")
        return logits.reshape(batch, depth, *logits.shape[1:]).transpose(1, 2)
