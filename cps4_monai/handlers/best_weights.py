"""Keeps the weights of the best validation, in the form in which a bundle ships them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn

from cps4_monai.atomic_file import write_atomically
from cps4_monai.handlers.files import plain, save_plain
from cps4_monai.networks.ema import unwrap

logger = logging.getLogger(__name__)


class NoWeightsError(RuntimeError):
    """A training that ended without the weights it is for."""

    told_to_users = True  # its message says what to do


def named_metric(engine: Workflow, key: str | None) -> str | None:
    """The name of a metric: the given one, or that of the engine's key metric; None where it has none."""
    return key or getattr(engine.state, "key_metric_name", None)


def metric_of(engine: Workflow, key: str | None, user: str) -> float:
    """A scalar metric of an engine: the named one, or its key metric.

    Raises:
        ValueError: there is no such metric, or it is no scalar.
    """
    key = named_metric(engine, key)
    metrics = engine.state.metrics
    if key is None or key not in metrics:
        raise ValueError(f"{user} looks for the metric {key!r}, the evaluator has {sorted(metrics)}; name one of them")
    try:
        return float(metrics[key])
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {key!r} that {user} looks at is no scalar: {metrics[key]!r}") from error


def better_when(metric: str | None) -> Literal["max", "min"]:
    """Whether more of a metric is better, as of a Dice, or less, as of a loss and of classes missed or falsely found.

    >>> better_when("val_dice"), better_when("loss"), better_when("decoded_missed")
    ('max', 'min', 'min')
    """
    return "min" if (metric or "").rpartition("_")[2] in ("loss", "missed", "false") else "max"


class BestWeights:
    """Attached to an evaluator: writes the network's weights whenever a metric is the best yet (paper page, row 19).

    Of equal ones the later weights stay, which have been trained for longer.

    The score to beat is kept by :class:`cps4_monai.handlers.ResumeHandler`, to which this is given as one of its
    states; after a resume a worse epoch does not overwrite better weights.

    Args:
        path: file for the weights, as ``models/model.pt``.
        network: its state dict, unwrapped and nothing else, is what is written.
        metric: name of the metric; by default the evaluator's key metric.
        mode: "max" if larger is better, "min" if smaller; None: by the metric's name, see :func:`better_when`.
        save: writes something else instead, given the path to write to (stage 1 saves its prompted ViT this way).

    Attributes:
        best_score: None before the first validation.
        best_epoch: its epoch, 0 before the first validation.
        written_score: of the weights that are being written, or were last; not a number before the first of a process.
        last_epoch: that of the last validation, whatever it found; 0 before the first.

    Raises:
        ValueError: an unknown mode, or neither or both of `network` and `save`.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module | None = None,
        metric: str | None = None,
        mode: Literal["max", "min"] | None = None,
        save: Callable[[Path], Any] | None = None,
    ) -> None:
        if mode not in ("max", "min", None):
            raise ValueError(f"mode is {mode!r}; expected 'max' or 'min'")
        if (network is None) == (save is None):
            raise ValueError("BestWeights needs either a network or a function 'save'; give exactly one")
        self.path = Path(path)
        self.network = network
        self.metric = metric
        self.mode: Literal["max", "min"] | None = better_when(metric) if mode is None and metric else mode
        self.save = save
        self.best_score: float | None = None
        self.written_score = math.nan
        self.best_epoch = self.last_epoch = 0
        self._written = False
        self._evaluator: Workflow | None = None

    def attach(self, engine: Workflow) -> None:
        """Registers with an evaluator, at COMPLETED: all metrics are there."""
        self._evaluator = engine
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Compares and writes; among several processes, the first one writes.

        Raises:
            ValueError: the metric does not exist or is no scalar.
        """
        score = metric_of(engine, self.metric, "BestWeights")
        mode = self.mode or better_when(named_metric(engine, self.metric))
        self.last_epoch = int(engine.state.epoch)
        if self.best_score is not None and (score < self.best_score if mode == "max" else score > self.best_score):
            return
        if score != score:  # NaN: no class of the validation set was there to be measured
            logger.warning("%s: the validation score is not a number; weights not kept", self.path.name)
            return
        self.written_score = score
        # The file first: killed in between, the epoch is run again and writes the same file again.
        if idist.get_rank() == 0:
            self._write()
        self.best_score, self.best_epoch, self._written = score, int(engine.state.epoch), True
        metric = named_metric(engine, self.metric)
        logger.info("best so far: %s %.4f at epoch %d, weights in %s", metric, score, self.best_epoch, self.path)

    def require(self) -> None:
        """The last step of a training: the weights are there, and are its own: it wrote them, now or before a resume.

        Raises:
            NoWeightsError: they are not; says why.
        """
        if idist.get_rank() != 0 or (self.path.is_file() and self._written):
            return
        if self.last_epoch == 0:
            why = "nothing was validated: no epoch ended"
        elif not self._written:
            why = (
                f"{self.metric or 'the validation score'} was no number in any validation, as where no label of the "
                "validation subjects holds an annotated class: correct the datalist's 'validation'"
            )
        else:
            why = f"the file was removed after epoch {self.best_epoch} wrote it"
        what = "is of an earlier training" if self.path.is_file() else "is not there"
        raise NoWeightsError(f"training ended without weights: {self.path} {what}; {why}")

    def _write(self) -> None:
        if self.network is not None:
            save_plain(self.path, unwrap(self.network).state_dict())
        elif self.save is not None:
            write_atomically(self.path, self.save)

    def state_dict(self) -> dict[str, Any]:
        """The score to beat, and the evaluator's own best metric."""
        state: dict[str, Any] = {
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "last_epoch": self.last_epoch,
            "metric": self.metric,
        }
        if self._evaluator is not None and hasattr(self._evaluator.state, "best_metric"):
            own = self._evaluator.state
            state["evaluator"] = {"metric": plain(own.best_metric), "epoch": own.best_metric_epoch}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        The evaluator's epoch is set to that of the last validation, from which
        :class:`cps4_monai.handlers.EpochValidation` sees whether the last epoch had one. A score by another metric is
        not compared with: the next validation sets the score to beat.
        """
        self.last_epoch = state.get("last_epoch", state["best_epoch"])
        self._written = state["best_score"] is not None
        if self._evaluator is not None:
            self._evaluator.state.epoch = self.last_epoch
        if state.get("metric", self.metric) != self.metric:
            logger.warning("weights were chosen by %s before, are chosen by %s now", state["metric"], self.metric)
            return
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        if self._evaluator is not None and "evaluator" in state:
            self._evaluator.state.best_metric = state["evaluator"]["metric"]
            self._evaluator.state.best_metric_epoch = state["evaluator"]["epoch"]
