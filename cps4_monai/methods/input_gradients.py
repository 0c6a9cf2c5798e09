"""Gradients with respect to pictures, beside the training step: neither scaler nor DDP notices them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cps4_monai.networks.ema import unwrap


@contextmanager
def resting_statistics(network: nn.Module) -> Iterator[None]:
    """While it lasts, BatchNorm normalises as before and leaves its running statistics alone."""
    layers = [m for m in unwrap(network).modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def input_gradient(network: nn.Module, images: Tensor, distance: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient of a distance of the logits with respect to the pictures, as virtual adversarial training needs it.

    By ``torch.autograd.grad`` on the unwrapped network, in float32 outside of autocast and never by ``backward``: no
    parameter gets a gradient, nothing is scaled, and no hook of ``DistributedDataParallel`` fires. The running
    statistics of BatchNorm stay as they are.

    Args:
        network: may be wrapped.
        images: (B, 1, H, W); the place at which the gradient is taken.
        distance: logits (B, C, H, W) to a scalar.

    Returns:
        (B, 1, H, W) float32, without a graph.
    """
    place = images.detach().float().requires_grad_()
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False), resting_statistics(network):
        (gradient,) = torch.autograd.grad(distance(unwrap(network)(place)), place)
    return gradient
