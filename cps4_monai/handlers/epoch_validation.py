"""Validates every few epochs, and whatever happens the last one: a run that ends has its product."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ignite.engine import Events
from monai.engines.evaluator import Evaluator
from monai.engines.workflow import Workflow
from monai.handlers import ValidationHandler

logger = logging.getLogger(__name__)


class EpochValidation(ValidationHandler):
    """MONAI's `ValidationHandler` that never leaves the end of a training unvalidated.

    It runs the validators in each epoch that `interval` divides and in the last one. Where a run ends otherwise,
    stopped within an epoch or started again after its last one without a validation, it runs them at the very end.

    Args:
        interval: epochs from one validation to the next; one above the number of epochs validates the last only.
        validator: whose epoch says whether the last one was validated; a resumed run restores it, see
            :class:`cps4_monai.handlers.BestWeights`.
        others: run right after it.

    Raises:
        ValueError: an interval below 1.
        TypeError: a validator that is none.
    """

    def __init__(
        self,
        interval: int,
        validator: Evaluator,
        others: Sequence[Evaluator] = (),
    ) -> None:
        if interval < 1:
            raise ValueError(f"the interval between validations is {interval}; expected 1 or more epochs")
        super().__init__(interval, validator, epoch_level=True)
        self.others = list(others)

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer, before the handlers that read what a validation found."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.of_epoch)
        engine.add_event_handler(Events.COMPLETED, self.of_end)

    def __call__(self, engine: Workflow) -> None:
        """Runs all validators."""
        super().__call__(engine)
        for other in self.others:
            other.run(engine.state.epoch)

    def of_epoch(self, engine: Workflow) -> None:
        """Validates if it is this epoch's turn, or the last one's."""
        state = engine.state
        if state.epoch % self.interval == 0 or state.epoch >= state.max_epochs or engine.should_terminate:
            self(engine)

    def of_end(self, engine: Workflow) -> None:
        """Validates the state that training ended in, if that was not done."""
        if engine.state.iteration > 0 and self.validator.state.epoch != engine.state.epoch:
            logger.info("training ended at epoch %d without its validation, which follows", engine.state.epoch)
            self(engine)


class FirstValidation:
    """Validates what a training starts from; among the trainer's handlers it comes after the checkpoint.

    Where :class:`cps4_monai.handlers.ResumeHandler` has brought back a later epoch, it does nothing.

    Args:
        validator: the evaluator.
    """

    def __init__(self, validator: Evaluator) -> None:
        self.validator = validator

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer at STARTED."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Runs it before the first epoch."""
        if engine.state.epoch == 0:
            self.validator.run(0)
