"""Sums over the batch of all processes: several processes with parts of a batch train as one does with all of it.

``DistributedDataParallel`` gives every process the mean of all gradients. That is the gradient of the whole batch where
a loss is a mean over slices, of which each process has as many. It is not where a loss is a quotient of sums over the
batch: a mean over the pixels that count, a Dice of all slices together. Such losses are made of :func:`whole_sum`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_SHARED: ContextVar[bool] = ContextVar("batch of all processes", default=False)


@contextmanager
def of_all_processes(shared: bool = True) -> Iterator[None]:
    """Within it losses are those of the whole batch: all processes compute the same losses in the same order.

    Args:
        shared: False changes nothing, as for networks that no process shares.
    """
    token = _SHARED.set(shared)
    try:
        yield
    finally:
        _SHARED.reset(token)


def whole_sum(own: Tensor) -> Tensor:
    """The sum over the slices of all processes from that over the slices of this one; outside, the latter as it is.

    Its gradient is that of the own part times the number of processes. A loss that every process computes from such
    sums therefore has, after the mean that ``DistributedDataParallel`` makes, the gradient of the whole batch, and the
    backward pass exchanges nothing more.

    Args:
        own: any shape, the same in all processes.
    """
    if not _SHARED.get():
        return own
    whole = own.detach().clone()
    torch.distributed.all_reduce(whole)
    if not own.requires_grad:
        return whole
    return whole + torch.distributed.get_world_size() * (own - own.detach())


def mean_of_processes(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scalars by name, each its mean over the processes, in one message: the losses of the whole batch, to show."""
    together = torch.stack([loss.detach().float() for loss in losses.values()])
    torch.distributed.all_reduce(together)
    return dict(zip(losses, (together / torch.distributed.get_world_size()).unbind(), strict=True))
