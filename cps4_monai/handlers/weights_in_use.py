"""Keeps a longer training from replacing weights that another training learned from."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow

from cps4_monai.file_hash import file_sha256


class WeightsInUseError(ValueError):
    """A training would replace weights that a later one goes by; nothing was trained."""


class WeightsInUse:
    """Refuses, before the first iteration, to train weights further that another training was trained with.

    That one would be refused afterwards, as its weights are gone. It comes after the checkpoint, which says how many
    epochs are left; a finished run, which replaces nothing, passes.

    Args:
        weights: file that this training writes.
        known_to: file of the later training.
        hashes_in: gives the SHA-256 of all files that the later training says that it was trained with.
    """

    def __init__(self, weights: str | Path, known_to: str | Path, hashes_in: Callable[[Path], Collection[str]]) -> None:
        self.weights = Path(weights)
        self.known_to = Path(known_to)
        self.hashes_in = hashes_in

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer, in every process."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Looks whether the weights may be replaced.

        Raises:
            WeightsInUseError: epochs are left, and the weights that are there are those of the later training.
        """
        done, epochs = engine.state.epoch, engine.state.max_epochs
        if engine.should_terminate or done >= epochs or not (self.weights.is_file() and self.known_to.is_file()):
            return
        if file_sha256(self.weights) in self.hashes_in(self.known_to):
            raise WeightsInUseError(
                f"max_epochs is {epochs}, and {done} are done: to train on would replace {self.weights}, which "
                f"{self.known_to} was made with, so that nothing could go on from there. Fix: choose another output "
                f"folder, leave the number of epochs as it was, or delete {self.known_to} to make what follows anew"
            )


def files_of_checkpoint(path: Path) -> Collection[str]:
    """SHA-256 of the files that the training of a ``resume.pt`` was begun with; none where it cannot be read."""
    try:
        files: dict[str, str] = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("files", {})
    except Exception:  # its own training says what is wrong with it
        return ()
    return tuple(files.values())


def weights_of_pseudo_labels(path: Path) -> Collection[str]:
    """SHA-256 of the weights that made the label maps of a round."""
    return (str(json.loads(path.read_text(encoding="utf-8")).get("weights_sha256", "")),)
