"""Where files lie that can be made or fetched again: the user's cache folder. Standard library only."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """``CPS4_CACHE_DIR``, or ``cps4_monai`` in the user's cache folder (``XDG_CACHE_HOME``, ``~/.cache``).

    A user without a home folder, as in containers, has it among the temporary files.
    """
    given = os.environ.get("CPS4_CACHE_DIR")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cps4_monai"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"cps4_monai-{_user()}"


def _user() -> str:
    """Name, or number where the system does not know the name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid()) if hasattr(os, "getuid") else "user"
