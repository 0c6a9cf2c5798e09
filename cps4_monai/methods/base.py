"""The seam between a semi-supervised method and the trainer that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.networks.ema import share_buffers, unwrap

Batch = Mapping[str, Any]
"""{"labeled": {"image", "label"}, "unlabeled": {"image", "image_strong", "prompt_map"}} and more, on the device."""


class SemiSupervisedMethod(ABC):
    """What a method is: its networks and optimisers, one step, what follows a step, and which network is deployed.

    :class:`cps4_monai.engines.SemiSupervisedTrainer` calls, at each iteration, :meth:`train`, then under autocast
    :meth:`forward` and :meth:`losses`, then `backward` on the total; once per optimiser step it steps every optimiser
    and calls :meth:`after_step`. A subclass implements :meth:`forward` and :meth:`losses` and waits for the device in
    neither: losses stay tensors.

    Args:
        networks: all networks by name; those with trainable parameters may be wrapped for several devices.
        optimizers: by name; each is stepped at each optimiser step.
        deployed: name of the network that is validated, shipped and used for inference.
        unannotated: class codes in view but never labeled; they enter no loss.

    Attributes:
        updates: optimiser steps made so far; ramps and the EMA warm-up count in it.
        needs_unlabeled: whether :meth:`forward` reads ``batch["unlabeled"]``.
        options: names of the attributes that a resumed run must share with the run that it goes on with.

    Raises:
        ValueError: `deployed` is no network, or there is no optimiser.
    """

    needs_unlabeled = True
    options: ClassVar[tuple[str, ...]] = ("deployed_name", "unannotated")

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        deployed: str,
        unannotated: Sequence[int] = (),
    ) -> None:
        if deployed not in networks:
            raise ValueError(f"deployed network is {deployed!r}; this method owns {sorted(networks)}: name one of them")
        if not optimizers:
            raise ValueError("a method needs at least one optimiser; none came")
        self.networks = dict(networks)
        self.optimizers = dict(optimizers)
        self.deployed_name = deployed
        self.unannotated = tuple(unannotated)
        self.updates = 0

    @property
    def deployed(self) -> nn.Module:
        """The network to validate, to ship and to infer with, unwrapped."""
        return unwrap(self.networks[self.deployed_name])

    @property
    def needs_prompt_map(self) -> bool:
        """Whether ``batch["unlabeled"]["prompt_map"]`` must be there; the prompt-map handler rests if not."""
        return False

    def parameters(self) -> list[nn.Parameter]:
        """All parameters that the optimisers change, for gradient clipping."""
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def train(self) -> None:
        """Puts every network into the mode in which it takes part in a step: training, all of them."""
        for network in self.networks.values():
            network.train()

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions of one step, by name; the trainer hands them to :meth:`losses` and to event handlers."""

    @abstractmethod
    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Scalar losses of one step. ``"loss"`` is the total and has a gradient; the others are its parts, to show."""

    def after_step(self) -> None:
        """Called after each optimiser step: shares BatchNorm's statistics among processes, and counts.

        Extend it for a moving average; call this one first.
        """
        for network in self.networks.values():
            share_buffers(network)
        self.updates += 1

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every network in evaluation mode, by name, for pictures.

        Args:
            images: (B, 1, H, W), on the networks' device.
        """
        logits: dict[str, Tensor] = {}
        for name, wrapped in self.networks.items():
            network = unwrap(wrapped)
            was_training = network.training
            with torch.no_grad():
                logits[name] = network.eval()(images)
            network.train(was_training)
        return logits

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: tensors and plain types."""
        return {
            "networks": {name: unwrap(network).state_dict() for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            ValueError: the state is that of a method with other networks or optimisers.
        """
        for kind, owned in (("networks", self.networks), ("optimizers", self.optimizers)):
            if set(state[kind]) != set(owned):
                raise ValueError(
                    f"checkpoint holds the {kind} {sorted(state[kind])}, {type(self).__name__} owns {sorted(owned)}: "
                    "it comes from another method; start in another output folder"
                )
            for name, item in owned.items():
                (unwrap(item) if isinstance(item, nn.Module) else item).load_state_dict(state[kind][name])
        self.updates = int(state["updates"])
