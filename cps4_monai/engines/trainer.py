"""The trainer of both stages: runs any :class:`SemiSupervisedMethod` on MONAI's engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch import Tensor
from torch.optim import Optimizer

from cps4_monai.losses.whole_batch import mean_of_processes, of_all_processes
from cps4_monai.methods.base import SemiSupervisedMethod
from cps4_monai.precision import Precision


def batch_to_device(batch: Any, device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Any:
    """Moves every tensor of a nested batch; what is there already, or is no tensor, stays as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking, **kwargs)
    if isinstance(batch, Mapping):
        return {key: batch_to_device(value, device, non_blocking, **kwargs) for key, value in batch.items()}
    return batch


def _mean(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each loss, mean over the steps of a batch that have it; of one step, the losses themselves."""
    if len(steps) == 1:
        return dict(steps[0])
    names = dict.fromkeys(name for losses in steps for name in losses)
    return {name: torch.stack([losses[name] for losses in steps if name in losses]).mean() for name in names}


class SemiSupervisedTrainer(Trainer):
    """Trains a method, firing MONAI's FORWARD, LOSS, BACKWARD and MODEL events in each step of an iteration.

    No iteration waits for the device, copies to it included where `non_blocking` is set and the batch lies in pinned
    memory, as the bundle does on a GPU. While it runs, ``state.output`` is a dict of predictions and losses; once it is
    completed, a list with one dict of detached scalar tensors: the total ``"loss"`` and its parts, each the mean over
    the steps of the batch. (The list is the form in which MONAI's handlers expect decollated outputs, so
    ``from_engine(["loss"], first=True)``, `StatsHandler` and `TensorBoardStatsHandler` work as they are; a scalar is
    copied to the host only when a handler reads it.)

    Args:
        device: where to run.
        max_epochs: epochs in total; an epoch is `epoch_length` iterations.
        train_data_loader: yields batches as :data:`cps4_monai.methods.base.Batch`.
        method: what to train.
        epoch_length: iterations; by default the loader's length.
        non_blocking: whether copies to the device may be asynchronous.
        prepare_batch: called as ``prepare_batch(batch, device, non_blocking, **to_kwargs)``.
        train_handlers: attached in order; a checkpoint handler comes last.
        precision: in which networks and losses are computed; None: float32.
        gradient_clip_norm: largest norm of all gradients together; None does not clip.
        accumulation_steps: batches whose mean gradient makes one optimiser step; the last group of an epoch may be
            smaller, and is averaged over its own size.
        to_kwargs: further arguments of `prepare_batch`.

    Raises:
        ValueError: a number of accumulation steps below 1, or above it with a method that makes several steps of a
            batch; a clip norm that is not positive.
        TypeError: `method` is no :class:`SemiSupervisedMethod`.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        method: SemiSupervisedMethod,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        prepare_batch: Callable[..., Any] = batch_to_device,
        train_handlers: Sequence[Any] | None = None,
        precision: Precision | None = None,
        gradient_clip_norm: float | None = None,
        accumulation_steps: int = 1,
        to_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(method, SemiSupervisedMethod):
            raise TypeError(f"method is a {type(method).__name__}; expected a cps4_monai.methods class")
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps is {accumulation_steps}; expected 1 or more")
        if accumulation_steps > 1 and method.steps_per_batch > 1:
            raise ValueError(
                f"accumulation_steps is {accumulation_steps} and {type(method).__name__} makes "
                f"{method.steps_per_batch} optimiser steps of each batch; set accumulation_steps to 1"
            )
        if gradient_clip_norm is not None and gradient_clip_norm <= 0:
            raise ValueError(f"gradient_clip_norm is {gradient_clip_norm}; expected a positive number or null")
        # Before super().__init__, because handlers are attached there and may look at them.
        self.method = method
        self.precision = Precision() if precision is None else precision
        self.gradient_clip_norm = gradient_clip_norm
        self.accumulation_steps = accumulation_steps
        super().__init__(
            device=torch.device(device),
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            handlers=train_handlers,
            decollate=False,
            to_kwargs=to_kwargs,
        )
        self.scaler = self.precision.new_scaler()  # MONAI knows CUDA's only
        if self.state.epoch_length:
            groups = -(-self.state.epoch_length // accumulation_steps)
            method.total_updates = max_epochs * groups * method.steps_per_batch

    @property
    def optimizer(self) -> Optimizer:
        """The method's first optimiser, where MONAI's handlers look for the learning rate."""
        return next(iter(self.method.optimizers.values()))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which networks run here, for handlers that run one."""
        return self.precision.autocast()

    def run(self) -> None:
        """Trains until `max_epochs`; unlike MONAI's, keeps the scaler that fits the device."""
        Workflow.run(self)

    def _group(self) -> tuple[int, bool, bool]:
        """Size of the present accumulation group, whether this iteration is its first and whether its last."""
        steps, length = self.accumulation_steps, self.state.epoch_length
        place = (self.state.iteration - 1) % length if length else self.state.iteration - 1
        start = place - place % steps
        size = min(steps, length - start) if length else steps
        return size, place == start, place == start + size - 1

    def _iteration(self, engine: SemiSupervisedTrainer, batchdata: Any) -> list[dict[str, Tensor]]:
        if batchdata is None:
            raise ValueError("no batch came for this iteration; the data loader must yield dicts")
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        engine.state.batch = batch
        engine.method.train()
        # The predictions of a step are let go with it: kept until the next ones are made, they would count twice.
        losses = _mean(list(engine._losses(batch)))
        shown = [mean_of_processes(losses) if engine.method.in_parallel else losses]
        engine.state.output = shown
        return shown

    def _losses(self, batch: Any) -> Iterator[dict[str, Tensor]]:
        """Makes all optimiser steps of a batch; the losses of each, detached."""
        group_size, first, last = self._group()
        steps = self.method.steps(batch)
        for _ in range(self.method.steps_per_batch):
            if first:
                for optimizer in self.method.optimizers.values():
                    optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                outputs = next(steps, None)
                if outputs is None:
                    raise ValueError(f"{self._declared} but gives fewer: make both agree")
                self.state.output = dict(outputs)
                self.fire_event(IterationEvents.FORWARD_COMPLETED)
                with of_all_processes(self.method.in_parallel):
                    losses = self.method.losses(outputs, batch)
            self.state.output.update(losses)
            self.fire_event(IterationEvents.LOSS_COMPLETED)
            loss = losses["loss"] / group_size
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            self.fire_event(IterationEvents.BACKWARD_COMPLETED)
            if last:
                self._step()
            self.fire_event(IterationEvents.MODEL_COMPLETED)
            self.state.output = {}
            del outputs, loss
            yield {name: value.detach() for name, value in losses.items()}
        if next(steps, None) is not None:
            raise ValueError(f"{self._declared} but gives more: make both agree")

    @property
    def _declared(self) -> str:
        return f"{type(self.method).__name__}.steps should give steps_per_batch = {self.method.steps_per_batch} steps"

    def _step(self) -> None:
        optimizers, scaler = list(self.method.optimizers.values()), self.scaler
        if self.gradient_clip_norm is not None:
            if scaler is not None:
                for optimizer in optimizers:
                    scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.gradient_clip_norm)
        for optimizer in optimizers:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        self.method.after_step()
