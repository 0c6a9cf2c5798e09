"""Says where a learning rate that falls as a cosine ends before the run does."""

from __future__ import annotations

import logging
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch.optim.lr_scheduler import CosineAnnealingLR

logger = logging.getLogger(__name__)


class CosineEnd:
    """Compares the length of a ``CosineAnnealingLR`` with that of the run: after its T_max steps the rate rises again.

    It comes after the checkpoint, which brings back the T_max that a run began with. Other schedules are passed over.

    Args:
        lr_scheduler: of the run.
        interval: epochs from one of its steps to the next; the last epoch makes one, too, as validations do.
    """

    def __init__(self, lr_scheduler: Any, interval: int = 1) -> None:
        self.lr_scheduler = lr_scheduler
        self.interval = interval

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer."""
        if isinstance(self.lr_scheduler, CosineAnnealingLR) and idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Warns, with the fix, where epochs are left that would be trained at the end of the cosine or after it."""
        length, epochs = self.lr_scheduler.T_max, engine.state.max_epochs
        steps = -(-epochs // self.interval)
        if length < steps:
            logger.warning(
                "T_max of lr_scheduler is %d, and the schedule takes %d steps in %d epochs: after epoch %d the rate "
                "is %g, from where it rises again. Fix: set lr_scheduler#T_max to %d%s; a run that is made longer "
                "keeps the T_max that it began with: start it anew in another folder",
                *(length, steps, epochs, length * self.interval, self.lr_scheduler.eta_min, steps),
                ", or a val_interval that divides max_epochs" if self.interval > 1 else "",
            )
