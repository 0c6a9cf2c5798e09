"""A checkpoint after each epoch, from which the same command goes on as if nothing had happened."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn

from cps4_monai.file_hash import by_content, file_sha256, is_same_setting
from cps4_monai.handlers.files import plain, save_plain
from cps4_monai.networks.ema import unwrap

logger = logging.getLogger(__name__)

_LONG = 400  # characters of a setting in a message
_FIRST = 3  # entries of a longer one that are named
_FORMAT = 3  # 3: with the fingerprint of the settings
_PARTS = {"settings", "trainer", "scaler", "random", "states"}  # that every version of this format has


class CheckpointError(ValueError):
    """A resume checkpoint that cannot be used: damaged, or of a run with other settings."""


class Stateful(Protocol):
    """Anything with a state: methods, networks, optimisers, schedulers, :class:`BestWeights`, :class:`EarlyStop`."""

    def state_dict(self) -> Any:
        """State as tensors and plain types."""

    def load_state_dict(self, state: Any) -> Any:
        """Restores it."""


class ResumeHandler:
    """Writes the whole state of a run after each epoch, and restores it when the run starts again.

    Kept are the given states, the trainer's epoch and iteration, whether it was stopped early, the gradient scaler and
    the state of every random generator. It is the last of the trainer's handlers: what comes after it in an epoch is
    not in the checkpoint. With several processes the first one writes and all of them read. A finished run that is
    started again trains nothing and ends at once.

    Args:
        path: of the checkpoint, outside ``models``, where every file is offered as a model.
        states: what to keep, by name; those that are None are not part of this run.
        settings: what must be the same for the run to go on (sizes, losses, seed, data), in plain values.
            Leave out what may change on the way (workers, device, number of epochs). A file or folder counts by name
            and content.
        files: what the run is trained with beside its data, name -> path: wherever they lie, their content must be the
            same. A checkpoint that does not tell of them yet is taken for one of these.
        since: settings that checkpoints of earlier versions do not have; there they are not compared.
        or_anew: begin anew where the checkpoint is damaged or of another run, with a warning that says why, and
            replace it; by default such a run is refused.

    Raises:
        ValueError: no states.
    """

    def __init__(
        self,
        path: str | Path,
        states: Mapping[str, Stateful | None],
        settings: Mapping[str, Any] | None = None,
        files: Mapping[str, str | Path] | None = None,
        since: Collection[str] = (),
        or_anew: bool = False,
    ) -> None:
        if not states:
            raise ValueError("states is empty; expected what is to be kept, by name")
        self.path = Path(path)
        self.states = {name: item for name, item in states.items() if item is not None}
        self.settings = plain(by_content(settings or {}), "settings")
        self.files = {name: Path(file) for name, file in (files or {}).items()}
        self.since, self.or_anew = frozenset(since), or_anew
        self._saved: list[int] = self._watched()

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.save_end)

    def save(self, engine: Workflow) -> None:
        """Writes the checkpoint of the epoch that has just ended.

        Raises:
            TypeError: a state that is neither a tensor nor of a plain type.
        """
        state = engine.state
        if idist.get_rank() != 0:
            return
        scaler = getattr(engine, "scaler", None)
        checkpoint = {
            "format": _FORMAT,
            "settings": self.settings,
            "files": self.hashes,
            "trainer": {
                "epoch": state.epoch,
                "iteration": state.iteration,
                "epoch_length": state.epoch_length,
                "stopped": bool(engine.should_terminate),
            },
            "precision": precision_of(engine),
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": random_state(),
            "states": {name: _bare(item).state_dict() for name, item in self.states.items()},
        }
        save_plain(self.path, checkpoint)
        self._saved = self._watched()

    def save_end(self, engine: Workflow) -> None:
        """Writes once more where a validation came after the last epoch's checkpoint; half an epoch makes none."""
        whole = engine.state.iteration == engine.state.epoch * (engine.state.epoch_length or 0)
        if whole and self._watched() != self._saved:
            self.save(engine)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each of the files, read once."""
        return {name: file_sha256(path) for name, path in self.files.items()}

    def _watched(self) -> list[int]:
        """Epochs of the last validations, by the states that know them."""
        return [item.last_epoch for item in self.states.values() if hasattr(item, "last_epoch")]

    def restore(self, engine: Workflow) -> None:
        """Goes on from the checkpoint, if there is one.

        Raises:
            CheckpointError: it is damaged, or belongs to a run with other settings or with other files.
        """
        self.hashes  # noqa: B018 (read now: a file may be another one by the end of the first epoch)
        if not self.path.is_file():
            return
        try:
            checkpoint = self._checked(engine)
        except CheckpointError as error:
            if not self.or_anew:
                raise
            logger.warning("%s", error)
            return
        trainer = checkpoint["trainer"]
        for name, item in self.states.items():
            _bare(item).load_state_dict(checkpoint["states"][name])
        engine.state.epoch, engine.state.iteration = trainer["epoch"], trainer["iteration"]
        self._restore_precision(engine, checkpoint)
        set_random_state(checkpoint["random"])
        self._saved = self._watched()
        logger.info("resumed from %s: %d of %d epochs done", self.path, trainer["epoch"], engine.state.max_epochs)
        if trainer["stopped"]:
            logger.warning(
                "%s: that run was stopped early, and nothing is left to train, whatever max_epochs is. Fix, to train "
                "on: choose another output_dir, and start from its weights with finetune_from",
                self.path,
            )
            engine.terminate()

    def forget(self) -> None:
        """Removes the checkpoint of a run that has ended, so that the next one in its folder begins anew."""
        if idist.get_rank() == 0:
            self.path.unlink(missing_ok=True)

    def _checked(self, engine: Workflow) -> dict[str, Any]:
        """The checkpoint, if this run may go on from it."""
        checkpoint = self._read()
        self._check_files(checkpoint.get("files", {}))
        length = checkpoint["trainer"]["epoch_length"]
        if length != engine.state.epoch_length:
            raise CheckpointError(
                f"{self.path}: an epoch had {length} iterations, now it has {engine.state.epoch_length}: the data or "
                f"the batch size changed; {self._way_out()}"
            )
        return checkpoint

    def _restore_precision(self, engine: Workflow, checkpoint: Mapping[str, Any]) -> None:
        """The weights are float32 in every precision; a scaler's state goes to a scaler, or is not needed any more."""
        before, now = checkpoint.get("precision"), precision_of(engine)
        if before is not None and before != now:
            logger.warning(
                "%s was computed in %s; this machine goes on in %s: the result is that of neither machine alone",
                self.path,
                before,
                now,
            )
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and checkpoint["scaler"]:
            scaler.load_state_dict(checkpoint["scaler"])

    def _read(self) -> dict[str, Any]:
        try:
            checkpoint: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            if checkpoint["format"] != _FORMAT:
                raise CheckpointError(
                    f"{self.path}: of format {checkpoint['format']}, not {_FORMAT}: another version of cps4_monai "
                    f"wrote it; {self._way_out()}"
                )
            if missing := sorted(_PARTS - checkpoint.keys()):
                raise KeyError(f"no {missing}")
            before, names = checkpoint["settings"], set(checkpoint["states"])
        except CheckpointError:
            raise
        except Exception as error:  # torch.load answers damage by nearly any of them
            raise CheckpointError(f"{self.path}: not a readable checkpoint ({error}); {self._way_out()}") from error
        changed = [
            _change(key, before.get(key), self.settings.get(key))
            for key in sorted(before.keys() | self.settings.keys() - (self.since - before.keys()))
            if not is_same_setting(before.get(key), self.settings.get(key))  # older ones have places of files
        ]
        if names != set(self.states):
            changed.append(f"it holds {sorted(names)}, this run {sorted(self.states)}")
        if changed:
            raise CheckpointError(
                f"{self.path}: of a run with other settings ({'; '.join(changed)}); {self._way_out()}"
            )
        return checkpoint

    def _check_files(self, before: Mapping[str, str]) -> None:
        for name, digest in self.hashes.items():
            path = self.files[name]
            if name not in before:
                logger.info(
                    "%s does not say yet which %s it is trained with; %s (SHA-256 %s) is taken for it",
                    *(self.path, name, path, digest),
                )
            elif before[name] != digest:
                told = f"{path}: this {name} has the SHA-256 {digest}, and {self.path} is of a run that is trained with"
                fix = f"put that {name} back, choose another output folder, or delete {self.path.name} to start over"
                way_out = self._way_out() if self.or_anew else f"expected the same. Fix: {fix}"
                raise CheckpointError(f"{told} one of {before[name]}; {way_out}")

    def _way_out(self) -> str:
        if self.or_anew:
            return "this training begins anew"
        return "choose another output folder, restore the settings, or delete this file to start over"


def _change(name: str, before: Any, now: Any) -> str:
    """What a setting was and is; of long ones, how many entries differ and the first few."""
    told = f"{name} was {before!r}, is {now!r}"
    if len(told) <= _LONG:
        return told
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        others = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        parts = [_change(f"{name}.{key}", before.get(key), now.get(key)) for key in others[:_FIRST]]
        return f"{len(others)} entries of {name} differ: {'; '.join(parts)}"
    if isinstance(before, list) and isinstance(now, list):
        gone, new = [e for e in before if e not in now], [e for e in now if e not in before]
        if not gone and not new:
            return f"the {len(before)} entries of {name}, now {len(now)}, are in another order or repeated"
        counts = f"{len(gone)} of {len(before)} entries of {name} are gone{_first(gone)}"
        return f"{counts}, {len(new)} of {len(now)} are new{_first(new)}"
    return f"{name} was {_cut(before)}, is {_cut(now)}"


def _first(entries: list[Any]) -> str:
    if not entries:
        return ""
    more = ", ..." if len(entries) > _FIRST else ""
    return f" ({', '.join(_cut(entry) for entry in entries[:_FIRST])}{more})"


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONG // 4 else f"{text[: _LONG // 4]}..."


def precision_of(engine: Workflow) -> str | None:
    """ "float32", "bfloat16" or "float16"; None for an engine that does not say."""
    return getattr(getattr(engine, "precision", None), "name", None)


def _bare(item: Any) -> Any:
    return unwrap(item) if isinstance(item, nn.Module) else item


def random_state() -> dict[str, Any]:
    """State of every random generator of this process, as tensors and plain types."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "rest": [int(position), int(has_gauss), float(cached)],
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what :func:`random_state` gave; states of more GPUs than there are now are left out."""
    python, own = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    np.random.set_state((own["name"], own["keys"].numpy().astype(np.uint32), *own["rest"]))
    torch.set_rng_state(state["torch"])
    for index, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_device, index)
