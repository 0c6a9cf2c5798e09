"""All numbers of a run in one CSV file, in long form, from which reports draw learning curves."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow

from cps4_monai.handlers.files import write_atomically
from cps4_monai.handlers.progress import scalars_of

logger = logging.getLogger(__name__)

COLUMNS = ("stage", "epoch", "iteration", "name", "value")


class MetricsLog:
    """Appends losses every few iterations, and the evaluators' metrics after each validation, to ``metrics.csv``.

    Attached to the trainer after the ``ValidationHandler``. A resumed run first drops the rows of epochs that it will
    run again, so that the file reads as if the run had never stopped.

    Args:
        path: the CSV file.
        stage: written into each row, e.g. "stage2".
        evaluators: by the prefix of their metrics ("" for none), e.g. ``{"": teacher, "student_": student}``.
        every: iterations between rows of losses.

    Raises:
        ValueError: ``every`` below 1.
    """

    def __init__(
        self, path: str | Path, stage: str, evaluators: Mapping[str, Workflow | None], every: int = 20
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; expected 1 or more iterations")
        self.path = Path(path)
        self.stage = stage
        self.evaluators = {prefix: engine for prefix, engine in evaluators.items() if engine is not None}
        self.every = every
        self._started = False

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer; among several processes, the first one writes."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self.start)
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.losses)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.metrics)

    def start(self, engine: Workflow) -> None:
        """At the first epoch of this process: writes the header, or drops the rows of this epoch and later ones."""
        if self._started:
            return
        self._started = True
        kept = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if _before(row, self.stage, engine.state.epoch)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda beside: _write(beside, kept))

    def losses(self, engine: Workflow) -> None:
        """Rows ``train_loss``, ``train_loss_...``: the only read of the device between validations."""
        self._append(engine, ((f"train_{k}", v) for k, v in scalars_of(engine.state.output).items()))

    def metrics(self, engine: Workflow) -> None:
        """Rows of the evaluators that ran in this epoch."""
        for prefix, evaluator in self.evaluators.items():
            if evaluator.state.epoch == engine.state.epoch:
                self._append(engine, ((prefix + k, v) for k, v in evaluator.state.metrics.items()))

    def _append(self, engine: Workflow, values: Iterator[tuple[str, float]]) -> None:
        state = engine.state
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for name, value in values:
                if isinstance(value, int | float) and math.isfinite(value):
                    writer.writerow([self.stage, state.epoch, state.iteration, name, f"{value:.6g}"])


def _before(row: Mapping[str, str], stage: str, epoch: int) -> bool:
    return row["stage"] != stage or int(row["epoch"]) < epoch


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
