"""Warnings of a check: logged where a run starts, and given back."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


def tell(stage: str, warnings: Sequence[str]) -> tuple[str, ...]:
    """Logs warnings, each with the stage or data set that it is about, and returns them."""
    for warning in warnings:
        logger.warning("%s: %s", stage, warning)
    return tuple(warnings)
