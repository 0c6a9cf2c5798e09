"""Handlers that a config makes elsewhere, as one entry of a handler list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.engines.workflow import Workflow


class HandlerGroup:
    """Attaches other handlers in order; None is left out.

    MONAI Label reads the entries of ``train#handlers`` and expects objects (``{"_target_": ...}``) only, so that a
    reference such as ``"@train#early_stop"`` stands within one of these.

    Args:
        handlers: each with an ``attach``, or None.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.handlers = [handler for handler in handlers if handler is not None]

    def attach(self, engine: Workflow) -> None:
        """Attaches each of them."""
        for handler in self.handlers:
            handler.attach(engine)
