"""The type of options and arguments that are paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class GivenPath(click.Path):
    """A path as a ``pathlib.Path``. An empty one, as of a variable that is not set, would be the folder here."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; fails where nothing is given."""
        if value == "":
            told = "the path is empty, as of a variable that is not set; expected a path ('.' is this folder)"
            self.fail(told, param, ctx)
        return super().convert(value, param, ctx)
