"""Where a network lies and in which memory format it computes."""

from __future__ import annotations

import torch
from torch import nn

# Below this many channels, torch 2.14's bfloat16 convolutions on CPUs write past their buffers in channels-last form.
MIN_CHANNELS_LAST = 16


def place(network: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """Moves a 2-D network to a device, channels last: the form in which CPUs and tensor cores convolve fastest.

    Networks with a level of fewer than ``MIN_CHANNELS_LAST`` channels keep the usual form.

    Args:
        network: changed in place.
        device: where to.

    Returns:
        The same network.
    """
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    fits = bool(widths) and min(widths) >= MIN_CHANNELS_LAST
    return network.to(device).to(memory_format=torch.channels_last if fits else torch.contiguous_format)
