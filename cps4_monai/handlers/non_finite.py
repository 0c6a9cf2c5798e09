"""Stops training at a loss that is not finite, and keeps the batch that made it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch import Tensor

from cps4_monai.handlers.files import save_plain

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """A training loss became NaN or infinite."""

    told_to_users = True  # its message says what to do


class StopOnNonFinite:
    """Looks at the losses without waiting for the device, and every `every` iterations at what was seen.

    At each iteration the finiteness of each loss stays on the device as a flag; the flags of the last iterations are
    read together. An epoch's end is always looked at, before the checkpoint is written. ignite's `TerminateOnNan`
    reads the loss at each step instead, and cannot say which batch it was.

    Args:
        output_dir: where the batch goes, as ``non_finite_batch.pt`` (tensors and plain types); of several processes,
            each but the first puts its number into the name, since not all of them saw the batch that was to blame.
        every: iterations between two looks; as many batches are held on the device.

    Raises:
        ValueError: `every` below 1.
    """

    def __init__(self, output_dir: str | Path, every: int = 20) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; expected 1 or more iterations")
        rank = idist.get_rank()
        self.path = Path(output_dir) / f"non_finite_batch{f'_rank{rank}' if rank else ''}.pt"
        self.every = every
        self._seen: list[tuple[int, int, list[str], Tensor, Any]] = []

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer that fires MONAI's LOSS_COMPLETED."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.note)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.look)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.look)

    def note(self, engine: Workflow) -> None:
        """Remembers the batch and, on the device, which of its losses are finite."""
        output = engine.state.output
        losses = {
            name: value for name, value in output.items() if name.startswith("loss") and isinstance(value, Tensor)
        }
        flags = torch.isfinite(torch.stack([value.detach().float().mean() for value in losses.values()]))
        self._seen.append((engine.state.iteration, engine.state.epoch, list(losses), flags, engine.state.batch))

    def look(self, engine: Workflow) -> None:
        """Reads the flags; the only place that waits for the device.

        Raises:
            NonFiniteLossError: a loss was not finite; names the iteration, the losses and the slices.
        """
        if not self._seen:
            return
        seen, self._seen = self._seen, []
        finite = torch.stack([flags.all() for _, _, _, flags, _ in seen]).tolist()
        if all(finite):
            return
        iteration, epoch, names, flags, batch = seen[finite.index(False)]
        bad = [name for name, good in zip(names, flags.tolist(), strict=True) if not good]
        slices = _slices(batch)
        saved = {"iteration": iteration, "epoch": epoch, "losses": bad, "slices": slices, "batch": _kept(batch)}
        save_plain(self.path, saved)
        raise NonFiniteLossError(
            f"{', '.join(bad)} not finite at iteration {iteration} (epoch {epoch}), for {slices or 'unnamed slices'}; "
            f"the batch is in {self.path}. Look at these images; else lower the learning rate, clip gradients, or "
            "turn amp off"
        )


def _slices(batch: Any) -> list[str]:
    """Where a batch comes from: "labeled: sub-01 slice 7" and so on."""
    if not isinstance(batch, Mapping):
        return []
    if "subject" in batch:
        subjects, indices = list(batch["subject"]), batch.get("slice_index")
        numbers = ["?"] * len(subjects) if indices is None else [int(index) for index in indices]
        return [f"{subject} slice {number}" for subject, number in zip(subjects, numbers, strict=True)]
    return [f"{part}: {line}" for part, content in batch.items() for line in _slices(content)]


def _kept(value: Any) -> Any:
    """What of a batch can be saved: tensors (on the CPU) and plain types; anything else by its description."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).cpu()
    if isinstance(value, Mapping):
        return {str(key): _kept(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_kept(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
