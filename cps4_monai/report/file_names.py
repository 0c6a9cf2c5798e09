"""File names on a page that is passed on: from the folder that all files share, not from the root of a machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def common_folder(files: Sequence[str | Path]) -> Path | None:
    """Deepest folder that holds all files; None without any, and where there is none, as on two drives."""
    try:
        return Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    except ValueError:
        return None


def without_folder(text: str, folder: Path | None) -> str:
    """The text (a path, or a message that names some) with the folder taken off the paths in it."""
    return text if folder is None else text.replace(f"{str(folder).rstrip(os.sep)}{os.sep}", "")
