"""Where files lie that can be made or fetched again: the user's cache folder. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``CPS4_CACHE_DIR``, or ``cps4_monai`` in the user's cache folder (``XDG_CACHE_HOME``, ``~/.cache``)."""
    given = os.environ.get("CPS4_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cps4_monai"
