"""Exponential moving average of a network: how the teacher follows the student (eq. 4)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside ``DistributedDataParallel`` and ``torch.compile``, so that state-dict names never change."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return getattr(network, "_orig_mod", network)


def ema_decay(updates: int, decay: float) -> float:
    """Decay of the coming update: min(1 - 1 / (t + 1), decay), t being the updates made before (paper page, row 17).

    The first update (t = 0) therefore copies the student; the warm-up ends at t = decay / (1 - decay).
    """
    return min(1.0 - 1.0 / (updates + 1), decay)


def make_teacher(student: nn.Module) -> nn.Module:
    """A frozen copy of the student in evaluation mode that shares no parameter and no buffer with it."""
    teacher = copy.deepcopy(unwrap(student))
    return teacher.requires_grad_(False).eval()


@torch.no_grad()
def share_buffers(network: nn.Module) -> None:
    """Gives every process the floating-point buffers of the first one: BatchNorm's running statistics.

    ``DistributedDataParallel`` does so before each forward pass, which forbids two passes in one step; with
    ``broadcast_buffers=False`` this function does it once a step, in one message. Other networks are left alone.
    """
    if not isinstance(network, DistributedDataParallel):
        return
    buffers = [buffer for buffer in network.module.buffers() if buffer.is_floating_point()]
    if buffers:
        together = torch.cat([buffer.flatten() for buffer in buffers])
        torch.distributed.broadcast(together, src=0, group=network.process_group)
        parts = together.split([buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [part.view_as(b) for part, b in zip(parts, buffers, strict=True)])


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves the teacher's parameters towards the student's: theta_t = decay * theta_t + (1 - decay) * theta_s (eq. 4).

    BatchNorm statistics, and all other buffers, are copied by value. Both are done by multi-tensor operations: a few
    kernels whatever the number of layers, and no synchronisation with the device.

    Args:
        teacher: changed in place.
        student: read only; may be wrapped by ``DistributedDataParallel`` or ``torch.compile``.
        decay: in [0, 1].

    Raises:
        ValueError: a decay outside [0, 1].
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"EMA decay is {decay}; expected a number from 0 (copy) to 1 (frozen)")
    source = unwrap(student)
    get_ema_multi_avg_fn(decay)(list(teacher.parameters()), [p.detach() for p in source.parameters()], None)
    buffers = list(teacher.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(source.buffers()))
