"""A progress bar over the whole run: loss parts, rate, time left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import Tensor
from tqdm import tqdm


def scalars_of(output: Any) -> dict[str, float]:
    """The scalar entries of an engine's output (a dict, or the list of dicts that MONAI's decollation leaves).

    All tensors among them are copied to the host together: one wait for the device, whatever their number.
    """
    if isinstance(output, (list, tuple)):
        output = output[0] if output else {}
    if not isinstance(output, Mapping):
        return {}
    scalars = {
        name: value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
        for name, value in output.items()
        if (isinstance(value, Tensor) and value.numel() == 1) or isinstance(value, (int, float))
    }
    if not scalars:
        return {}
    device = next((value.device for value in scalars.values() if value.device.type != "cpu"), torch.device("cpu"))
    values = torch.stack([value.float().reshape(()).to(device) for value in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))


class ProgressHandler:
    """One bar for all iterations of a run; losses are read, and the bar drawn, every few iterations.

    ignite's `ProgressBar` covers one epoch and reads the losses at every step.

    Args:
        every: iterations between two readings.
        description: text before the bar.
        disable: True for no bar, None for a bar on terminals only.

    Raises:
        ValueError: `every` below 1.
    """

    def __init__(self, every: int = 10, description: str = "training", disable: bool | None = None) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; expected 1 or more iterations")
        self.every = every
        self.description = description
        self.disable = disable
        self.bar: tqdm | None = None

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self.close)

    def start(self, engine: Workflow) -> None:
        """Opens the bar at the iteration that the run starts, or resumes, from."""
        if self.bar is None:
            state = engine.state
            total = None if state.epoch_length is None else state.epoch_length * state.max_epochs
            self.bar = tqdm(
                total=total,
                initial=state.iteration,
                desc=self.description,
                unit="it",
                disable=self.disable,
                dynamic_ncols=True,
                mininterval=0.5,
            )

    def update(self, engine: Workflow) -> None:
        """Moves the bar to the present iteration and shows the losses."""
        if self.bar is None or self.bar.disable:
            return
        losses = {name.removeprefix("loss_"): value for name, value in scalars_of(engine.state.output).items()}
        shown = {name: f"{value:.3f}" for name, value in losses.items()}
        self.bar.set_postfix({"epoch": f"{engine.state.epoch}/{engine.state.max_epochs}", **shown}, refresh=False)
        self.bar.update(engine.state.iteration - self.bar.n)

    def close(self, engine: Workflow) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
