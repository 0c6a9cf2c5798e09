"""A network that several processes train together: shared gradients, and BatchNorm over the slices of all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def in_parallel(
    network: nn.Module, device: torch.device | str, share_batch_norm: bool = True, **wrapper: Any
) -> DistributedDataParallel:
    """The network in a wrapper that gives every process the mean of all gradients.

    Args:
        network: on its device; with shared BatchNorm its normalisation layers are replaced, its parameters are not.
        device: of this process.
        share_batch_norm: whether BatchNorm normalises the slices of all processes together, as one process with the
            whole batch does; otherwise those of its own process.
        **wrapper: further arguments of ``DistributedDataParallel``.

    Raises:
        ValueError: a BatchNorm without weights or running statistics, which cannot be shared.
    """
    on_gpu = torch.device(device).type == "cuda"
    if share_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network) if on_gpu else _shared(network)
    return DistributedDataParallel(network, device_ids=[device] if on_gpu else None, **wrapper)


class SharedBatchNorm(_BatchNorm):
    """BatchNorm over the slices of all processes, as many in each: ``SyncBatchNorm``, which there is for GPUs only.

    mu = mean over the processes of their means, sigma^2 = that of their mean squared distances from mu. The running
    variance is the unbiased one of all slices, as in torch; both rest while ``track_running_stats`` is off.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"features of shape {tuple(input.shape)}; expected (B, C, ...)")

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, ...) to the same; in evaluation mode torch's own, with the running statistics."""
        if not self.training:
            return super().forward(features)
        axes, shape = [0, *range(2, features.ndim)], (1, -1, *[1] * (features.ndim - 2))
        processes = torch.distributed.get_world_size()
        exact = features if features.dtype == torch.float64 else features.float()
        mean = _sum_of_processes(exact.mean(axes)) / processes
        centred = exact - mean.view(shape)
        variance = _sum_of_processes(centred.square().mean(axes)) / processes
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach(), processes * features.numel() // features.shape[1])
        scaled = centred * ((variance + self.eps).rsqrt() * self.weight).view(shape)
        return (scaled + self.bias.view(shape)).to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, values: int) -> None:
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
        self.running_var.lerp_(variance * (values / max(values - 1, 1)), self.momentum)  # type: ignore[union-attr, arg-type]


class _SumOfProcesses(torch.autograd.Function):
    """Sum over the processes; what each of them does with it comes back in the gradient, a sum as well."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        whole = own.clone()
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].clone()
        torch.distributed.all_reduce(whole)
        return whole


_sum_of_processes = _SumOfProcesses.apply


def _shared(network: nn.Module) -> nn.Module:
    """The same network, each BatchNorm replaced by a shared one that has its parameters and buffers."""
    if isinstance(network, _BatchNorm):
        return network if isinstance(network, SharedBatchNorm) else _replaced(network)
    for name, child in network.named_children():
        setattr(network, name, _shared(child))
    return network


def _replaced(norm: _BatchNorm) -> SharedBatchNorm:
    if not norm.affine or not norm.track_running_stats or norm.momentum is None:
        raise ValueError(
            f"{norm} has no weights, no running statistics or no momentum; expected all three to share it among "
            "processes. Fix: set share_batch_norm to false, and each process normalises its own slices"
        )
    shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, device="meta")
    shared._parameters, shared._buffers = norm._parameters, norm._buffers
    return shared.train(norm.training)
