"""Searches that follow links to folders: none is searched twice, and none in a circle."""

from __future__ import annotations

import os
from pathlib import Path


class SearchedFolders:
    """The folders of one search, by the place that links lead to.

    Args:
        top: the folder that is searched.
    """

    def __init__(self, top: str | Path) -> None:
        self._top = os.path.realpath(top)
        self._seen = {self._top}

    def add(self, folder: str | Path) -> bool:
        """Whether a folder is to be searched: not one that was, nor a link into ``top``, which is searched there."""
        place = os.path.realpath(folder)
        inside = os.path.islink(folder) and Path(place).is_relative_to(self._top)
        if inside or place in self._seen:
            return False
        self._seen.add(place)
        return True
