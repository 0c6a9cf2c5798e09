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


@torch.no_grad()
def ema_update_of_pair(teacher: nn.Module, first: nn.Module, second: nn.Module, share: float, decay: float) -> None:
    """Moves the teacher towards share * first + (1 - share) * second, parameters as :func:`ema_update` does.

    Floating-point buffers become that mean, all others are copied from the first network.

    Args:
        teacher: changed in place.
        first: read only.
        second: read only, of the same architecture.
        share: of the first one, in [0, 1].
        decay: in [0, 1].

    Raises:
        ValueError: a share or a decay outside [0, 1].
    """
    if not 0.0 <= min(share, decay) <= max(share, decay) <= 1.0:
        raise ValueError(f"share is {share}, EMA decay {decay}; expected numbers from 0 to 1")
    parameters = _mean([p.detach() for p in first.parameters()], [p.detach() for p in second.parameters()], share)
    get_ema_multi_avg_fn(decay)(list(teacher.parameters()), parameters, None)
    triples = list(zip(teacher.buffers(), first.buffers(), second.buffers(), strict=True))
    moving = [triple for triple in triples if triple[0].is_floating_point()]
    counts = [triple for triple in triples if not triple[0].is_floating_point()]
    if moving:
        torch._foreach_copy_(
            [t for t, _, _ in moving], _mean([f for _, f, _ in moving], [s for _, _, s in moving], share)
        )
    if counts:
        torch._foreach_copy_([t for t, _, _ in counts], [f for _, f, _ in counts])


def _mean(first: list[torch.Tensor], second: list[torch.Tensor], share: float) -> list[torch.Tensor]:
    mean = torch._foreach_mul(first, share)
    torch._foreach_add_(mean, second, alpha=1.0 - share)
    return list(mean)
