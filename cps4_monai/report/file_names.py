"""File names on a page that is passed on: from the folder that all files share, not from the root of a machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

# One folder in a path: spaces are inside of it, not at its ends, and none after what looks like a file's ending.
_FOLDER = r"""[^\s/\\:;'"<>|](?:(?:(?!\.\w{1,5}\s)[^/\\:;'"<>|])*[^\s/\\:;'"<>|])?"""
_ABSOLUTE = re.compile(rf"(?<![\w.~/\\])(?:file:///|[A-Za-z]:[/\\]|\\\\|/)(?=[^\s/\\])(?:{_FOLDER}[/\\])*")


def common_folder(files: Sequence[str | Path]) -> Path | None:
    """Deepest folder that holds all files; None without any, and where there is none, as on two drives."""
    try:
        return Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    except ValueError:
        return None


def without_folder(text: str, *folders: Path | None) -> str:
    """The text (a path, or a message that names some) without what only this machine has of the paths in it.

    The folders are taken off, the deepest first; of what absolute paths are left the last part stays.
    """
    for folder in sorted((f for f in folders if f is not None and f != f.parent), key=lambda f: -len(f.parts)):
        text = re.sub(rf"(?<![\w.-]){re.escape(f'{folder}{os.sep}')}", "", text)
    return _ABSOLUTE.sub("", text)
