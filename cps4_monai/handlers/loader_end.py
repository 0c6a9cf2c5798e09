"""Ends the workers of a trainer's loader with the training."""

from __future__ import annotations

from ignite.engine import Events
from monai.engines.workflow import Workflow


class LoaderEnd:
    """Once the run is completed the loader's workers end, whose batches would wait in memory while a next stage trains.

    A loader without ``close`` is left alone.
    """

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer at COMPLETED."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Calls ``close`` of the engine's data loader."""
        close = getattr(getattr(engine, "data_loader", None), "close", None)
        if close is not None:
            close()
