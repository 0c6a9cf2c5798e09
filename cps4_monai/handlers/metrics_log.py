"""Losses and validation metrics of a run to ``metrics.csv``, from which reports draw learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from cps4_monai.handlers.progress import scalars_of
from cps4_monai.metrics.run_log import RunLog

SECONDS = "train_seconds_per_iteration"


class MetricsLog:
    """Appends losses every few iterations, the evaluators' metrics after each validation, and the time of each epoch.

    An epoch too short for such an iteration has a line of losses at its end.

    Attached to the trainer after the ``EpochValidation``. A resumed run first drops the lines of epochs that it will
    run again, so that the file reads as if the run had never stopped.

    Args:
        path: the CSV file.
        stage: written into each line, e.g. "stage2".
        evaluators: by the prefix of their metrics ("" for none), e.g. ``{"": teacher, "student_": student}``.
        every: iterations between lines of losses.

    Raises:
        ValueError: ``every`` below 1.
    """

    def __init__(self, path: str | Path, stage: str, evaluators: Mapping[str, Engine], every: int = 20) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; expected 1 or more iterations")
        self.path = Path(path)
        self.stage = stage
        self.evaluators = dict(evaluators)
        self.every = every
        self._log: RunLog | None = None
        self._written: dict[str, int] = {}

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer; among several processes, the first one writes."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self.start)
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.losses)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.losses_of_epoch)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.metrics)
            engine.add_event_handler(Events.COMPLETED, self.metrics)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.seconds)

    def start(self, engine: Engine) -> None:
        """At the first epoch of this process: opens the file and drops the lines of this epoch and later ones."""
        if self._log is None:
            self._log = RunLog(self.path)
            self._log.drop_from(self.stage, engine.state.epoch)

    def losses(self, engine: Engine) -> None:
        """Lines ``train_loss``, ``train_loss_...``: the losses are read from the device here only."""
        self._write(engine, {f"train_{name}": value for name, value in scalars_of(engine.state.output).items()})

    def losses_of_epoch(self, engine: Engine) -> None:
        """The losses of an epoch's last iteration, where no iteration of it had a line."""
        last, length = engine.state.iteration, engine.state.epoch_length or 0
        if last // self.every == (last - length) // self.every:
            self.losses(engine)

    def metrics(self, engine: Engine) -> None:
        """Lines of the evaluators that ran in this epoch, or when training was completed, once."""
        for prefix, evaluator in self.evaluators.items():
            epoch = evaluator.state.epoch
            if epoch == engine.state.epoch and evaluator.state.metrics and self._written.get(prefix) != epoch:
                self._written[prefix] = epoch
                self._write(engine, {prefix + name: value for name, value in evaluator.state.metrics.items()})

    def seconds(self, engine: Engine) -> None:
        """Line ``train_seconds_per_iteration``: of this epoch, data included and validation not."""
        epoch, length = engine.state.times[Events.EPOCH_COMPLETED.name], engine.state.epoch_length
        if epoch is not None and length:
            self._write(engine, {SECONDS: epoch / length})

    def _write(self, engine: Engine, values: Mapping[str, float]) -> None:
        if self._log is None:  # a validation after the last epoch, in a process that trained none
            self._log = RunLog(self.path)
        self._log.write(self.stage, engine.state.epoch, engine.state.iteration, values)
