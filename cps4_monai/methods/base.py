"""The seam between a semi-supervised method and the trainer that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from cps4_monai.losses.semi_supervised import mask_unannotated
from cps4_monai.networks.composite import deployable
from cps4_monai.networks.ema import share_buffers, unwrap
from cps4_monai.networks.evaluation_mode import aside, evaluation_mode

# {"labeled": {"image", "label"}, "unlabeled": {"image", "image_strong", "prompt_map"}} and more, on the device.
Batch = Mapping[str, Any]


class SemiSupervisedMethod(ABC):
    """What a method is: its networks and optimisers, one step, what follows a step, and which network is deployed.

    :class:`cps4_monai.engines.SemiSupervisedTrainer` calls, at each iteration, :meth:`train`; then, for each of
    :meth:`steps`, under autocast the step's predictions and :meth:`losses`, and `backward` on the total; once per
    optimiser step it steps every optimiser and calls :meth:`after_step`. A subclass implements :meth:`forward` and
    :meth:`losses` (with several steps a batch: :meth:`steps`) and waits for the device in none: losses stay tensors.

    Args:
        networks: all networks by name; those with trainable parameters may be wrapped for several devices.
        optimizers: by name; each is stepped at each optimiser step.
        deployed: name of the network that is validated, shipped and used for inference.
        unannotated: class codes in view but never labeled; they enter no loss.

    Attributes:
        updates: optimiser steps made so far, those included that the gradient scaler of float16 skipped; ramps and the
            EMA warm-up count in it.
        total_updates: those of the whole run, which the trainer sets: what schedules in shares of a run count in. A
            resumed run keeps those that it began with. None where the length of an epoch is not known.
        needs_unlabeled: whether :meth:`forward` reads ``batch["unlabeled"]``.
        strong_views: strong views of each unlabeled slice that it reads: ``image_strong``, ``image_strong_2``, ...
        labeled_strong_views: strong views of each labeled slice that it reads, beside ``image``.
        steps_per_batch: optimiser steps made of one batch, see :meth:`steps`.
        waits_for_device: True where a step must wait for the device; every other method is tested not to.
        source: where the method comes from, for `cps4 methods`; a subclass does not inherit it.
        needs: what it takes that neither its overlay nor these attributes show, in words, for the same.
        budget_notes: what a step costs beyond one network and one step a batch, for the report of a study.

    Raises:
        ValueError: `deployed` is no network, or there is no optimiser.
    """

    needs_unlabeled = True
    strong_views: ClassVar[int] = 1
    labeled_strong_views: ClassVar[int] = 0
    steps_per_batch: ClassVar[int] = 1
    waits_for_device: bool = False
    source: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    budget_notes: tuple[str, ...] = ()

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
        self.total_updates: int | None = None

    @property
    def deployed(self) -> nn.Module:
        """The network to validate, to ship and to infer with: unwrapped, and of a composite its backbone."""
        return deployable(self.networks[self.deployed_name])

    @property
    def needs_prompt_map(self) -> bool:
        """Whether ``batch["unlabeled"]["prompt_map"]`` must be there; the prompt-map handler rests if not."""
        return False

    @property
    def in_parallel(self) -> bool:
        """Whether several processes train these networks together, each with its part of a batch."""
        return any(isinstance(network, DistributedDataParallel) for network in self.networks.values())

    def parameters(self) -> list[nn.Parameter]:
        """All parameters that the optimisers change, for gradient clipping."""
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def train(self) -> None:
        """Puts every network into the mode in which it takes part in a step: training, all of them."""
        for network in self.networks.values():
            network.train()

    def share_of_run(self, share: float) -> int:
        """Optimiser steps that are this share, in [0, 1], of the whole run: the length of a ramp or a phase.

        Raises:
            ValueError: nobody said how long the run is.
        """
        if self.total_updates is None:
            raise ValueError(
                f"{type(self).__name__} counts in shares of the run, whose length is not known: set epoch_length of "
                "the trainer, or total_updates of the method"
            )
        return round(share * self.total_updates)

    def steps(self, batch: Batch) -> Iterator[Mapping[str, Tensor]]:
        """Predictions of each optimiser step that is made of a batch; one, :meth:`forward`, unless overridden.

        The networks have been stepped when the next item is asked for: what follows a ``yield`` sees them changed. A
        step that makes its own pictures or targets puts the targets into its predictions, where :meth:`losses` finds
        them.
        """
        yield self.forward(batch)

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
            with torch.no_grad(), evaluation_mode(network):
                logits[name] = network(images)
        return logits

    def student_probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C, H, W) of the network in training, for a provider that listens to it.

        In evaluation mode and without gradient; unannotated classes have none.

        Args:
            images: (B, 1, H, W), on the networks' device.
        """
        network = deployable(self.networks.get("student", self.networks[self.deployed_name]))
        with aside(network):
            return mask_unannotated(network(images), self.unannotated).softmax(dim=1)

    def feedback(self, images: Tensor) -> Tensor | None:
        """What a provider that listens is told of pictures (B, 1, H, W): the student's probabilities.

        A method that wants it to listen later says None until then, which costs nothing.
        """
        return self.student_probabilities(images)

    def extra_state(self) -> dict[str, Tensor]:
        """What a method remembers beside its networks (a memory bank, a queue): its own tensors, by name.

        They are stored with the networks and filled in place when a run is resumed, so give the tensors themselves and
        no copies. A checkpoint from before a tensor existed leaves it as it is.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: tensors and plain types."""
        return {
            "networks": {name: unwrap(network).state_dict() for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "updates": self.updates,
            "total_updates": self.total_updates,
            "extra": self.extra_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            ValueError: the state is that of a method with other networks, optimisers or extra tensors.
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
        self.total_updates = state.get("total_updates", self.total_updates)
        stored = state.get("extra", {})
        for name, tensor in self.extra_state().items():
            if name in stored and stored[name].shape != tensor.shape:
                raise ValueError(
                    f"checkpoint holds {name!r} of shape {tuple(stored[name].shape)}, {type(self).__name__} has "
                    f"{tuple(tensor.shape)}: it comes from a run with other settings; start in another output folder"
                )
            if name in stored:
                with torch.no_grad():
                    tensor.copy_(stored[name])
