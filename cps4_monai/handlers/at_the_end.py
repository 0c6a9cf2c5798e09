"""A last step of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Events
from monai.engines.workflow import Workflow


class AtTheEnd:
    """Does something once training is completed, after all other handlers: it comes last among them.

    Args:
        step: what to do, e.g. ``BestWeights.require``.
    """

    def __init__(self, step: Callable[[], Any]) -> None:
        self.step = step

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer at COMPLETED, which also comes where a run was stopped early."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Does it."""
        self.step()
