"""Stops a run whose validation has not improved for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.engines.workflow import Workflow

from cps4_monai.handlers.best_weights import better_when, metric_of, named_metric


class EarlyStop:
    """ignite's `EarlyStopping`, attached to the trainer and reading an evaluator.

    ignite's and MONAI's handlers are attached to the evaluator and need the trainer, which a config cannot give them,
    because the trainer's handlers refer to the evaluator already. In the list of the trainer's handlers this one comes
    after the `EpochValidation` and before the :class:`cps4_monai.handlers.ResumeHandler`, which keeps its state.

    Args:
        evaluator: whose metric is read, after each of its runs.
        patience: validations without improvement until the run stops; None: it never does.
        metric: by default the evaluator's key metric.
        mode: "max" if larger is better, "min" if smaller; None: by the metric's name, see :func:`better_when`.
    """

    def __init__(
        self,
        evaluator: Workflow,
        patience: int | None,
        metric: str | None = None,
        mode: Literal["max", "min"] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.patience = patience
        self._stopping = EarlyStopping(
            patience=1 if patience is None else patience,
            score_function=lambda _: metric_of(evaluator, metric, "EarlyStop"),
            trainer=evaluator,
            mode=mode or better_when(named_metric(evaluator, metric)),
        )

    def attach(self, engine: Workflow) -> None:
        """Registers with the trainer at EPOCH_COMPLETED."""
        self._stopping.trainer = engine
        if self.patience is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Looks at the metric in the epochs in which the evaluator ran."""
        if self.evaluator.state.epoch == engine.state.epoch:
            self._stopping(self.evaluator)

    def state_dict(self) -> dict[str, Any]:
        """Count and score to beat."""
        return dict(self._stopping.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self._stopping.load_state_dict(state)
