"""Files of an exported bundle in the layout that the model zoo's formatting hooks ask for."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

from cps4_monai.atomic_file import write_atomically

logger = logging.getLogger(__name__)


def lay_out(folder: Path) -> None:
    """JSON with four spaces and a newline at the end; imports as the zoo's isort sorts them, where isort is installed.

    What the files say stays as it is.

    Args:
        folder: of the staged bundle, with the package in it.
    """
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        write_atomically(path, json.dumps(content, indent=4) + "\n")
    if importlib.util.find_spec("isort") is None:
        logger.info("isort is not installed: imports stay as the package has them, which the model zoo's hook refuses")
    else:
        _sort_imports(folder)


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
