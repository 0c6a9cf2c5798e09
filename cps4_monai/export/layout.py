"""Files of an exported bundle in the layout that the model zoo's formatting hooks ask for."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

from cps4_monai.atomic_file import write_atomically

logger = logging.getLogger(__name__)


def lay_out(folder: Path) -> None:
    """JSON with four spaces and a newline at the end; Python as the zoo's isort and black have it, where these are
    installed (extra ``zoo``).

    What the files say stays as it is.

    Args:
        folder: of the staged bundle, with the package in it.
    """
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        write_atomically(path, json.dumps(content, indent=4) + "\n")
    for name, format_all in (("isort", _sort_imports), ("black", _break_lines)):
        if importlib.util.find_spec(name) is None:
            logger.info("%s is not installed: Python stays as the package has it, which the model zoo refuses", name)
        else:
            format_all(folder)


def _sort_imports(folder: Path) -> None:
    """By the settings of the zoo's setup.cfg: profile black, 120 columns, nothing but ``models`` of its own.

    Where this is run says nothing: isort would take what lies in the current folder, this package in a checkout of it,
    for its own, and the zoo's CI runs where there is none.
    """
    import isort

    settings = isort.Config(
        profile="black",
        line_length=120,
        quiet=True,
        known_first_party=frozenset({"models"}),
        src_paths=(folder / "models",),
    )
    for path in sorted(folder.rglob("*.py")):
        isort.file(path, config=settings)


def _break_lines(folder: Path) -> None:
    """By the settings of the zoo's runtests.sh: 120 columns, a trailing comma breaks no line."""
    import black

    mode = black.Mode(line_length=120, magic_trailing_comma=False)
    for path in sorted(folder.rglob("*.py")):
        black.format_file_in_place(path, fast=True, mode=mode, write_back=black.WriteBack.YES)
