"""One folder per job, found again by its settings: what was run with other settings is neither reused nor lost."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from cps4_monai.atomic_file import write_atomically
from cps4_monai.fingerprint import differences, same_result

SETTINGS, DONE, TASK, LOG = "settings.json", "done.json", "task.json", "log.txt"
PLANNED = "planned.json"  # the merged config that the job trains with, whatever becomes of the overlays meanwhile


def json_text(content: Any) -> str:
    """JSON as it stands in the files of a study."""
    return json.dumps(content, indent=1, default=str) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Writes JSON beside its place and renames it; several commands may write the same file at one time."""
    write_atomically(path, json_text(content), shared=True)


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where it is not there or was cut off."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are read again from ``settings.json``."""
    return dict(json.loads(json.dumps(settings, default=str)))


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings as they are recorded, in whatever order they stand."""
    return hashlib.sha256(json.dumps(as_recorded(settings), sort_keys=True).encode()).hexdigest()


def preparing(folder: Path) -> FileLock:
    """Lock of what says what a job's folder is for, settings, task and config, which one command at a time writes.

    It is held for moments; ``.lock`` is that of the process that works on the job, for hours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".preparing.lock")


class FolderShelf:
    """The folders of one kind of job in a study's output.

    Args:
        parent: holds the folders; need not exist.
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self._settings: dict[Path, dict[str, Any]] = {}
        for path in sorted(parent.glob(f"*/{SETTINGS}")) if parent.is_dir() else []:
            self._settings[path.parent] = read_json_or_empty(path)

    def place(self, name: str, settings: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Path:
        """Folder of the run with these settings: the one there is, whatever its name, or a new one.

        Args:
            name: of a new folder; a number is added where that name is taken by other settings.
            settings: those that decide the result.
            config: see :func:`differences`.
        """
        plain = as_recorded(settings)
        for folder, known in sorted(self._settings.items(), key=lambda item: item[0].name != name):
            if same_result(known, plain, config):
                return folder
        for number in itertools.count(1):
            folder = self.parent / (name if number == 1 else f"{name}-{number}")
            if folder not in self._settings:
                self._settings[folder] = plain
                return folder
        raise AssertionError("unreachable")

    def older(
        self, name: str, settings: Mapping[str, Any], config: Mapping[str, Any] | None = None
    ) -> dict[Path, dict[str, tuple[Any, Any]]]:
        """Folders of that name with other settings, and what is different in them."""
        plain = as_recorded(settings)
        others = {}
        for folder, known in self._settings.items():
            stem, _, number = folder.name.rpartition("-")
            if (folder / SETTINGS).is_file() and (folder.name == name or (stem == name and number.isdigit())):
                changed = differences(known, plain, config)
                if changed:
                    others[folder] = changed
        return others
