"""Tables and pages at the top of an output folder: written whole, and never over a file that is not ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from cps4_monai import __version__
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.label_ownership import GENERATOR, ForeignFileError
from cps4_monai.encoding import json_bytes, text_bytes

MANIFEST = "cps4_files.json"
LOCK = ".cps4_files.lock"  # empty; held for moments by the command that writes, and left behind, as locks are
SEGMENTATION, SCORES = "cps4 segment", "cps4 report --labels or cps4 evaluate"  # whose files a folder holds


class RunFiles:
    """Files of ours at the top of an output folder, known by their hashes in ``cps4_files.json``.

    Args:
        folder: the output folder.
        of: the commands whose results the folder holds; those of others are never replaced, as names are the same.
        own: the folder is a run's own, in which files of ours are replaced though they were changed, or are of a
            version that kept no hashes.
    """

    def __init__(self, folder: str | Path, of: str = SEGMENTATION, *, own: bool = False) -> None:
        self.folder, self.of, self.own = Path(folder), of, own

    def check(self, names: Iterable[str]) -> None:
        """Checks that files of these names may be written.

        Raises:
            ForeignFileError: one is there that is not ours, or was changed since; or the folder holds the results of
                other commands.
        """
        names, lock = list(names), self.folder / LOCK
        if not lock.exists():  # nobody has written here yet, and looking leaves nothing behind
            try:
                return self._check(names)
            except ForeignFileError:
                if not lock.exists():
                    raise  # else a command has begun to write meanwhile: what was found may be its own
        with FileLock(lock):  # else another may be between manifest and file
            self._check(names)

    def _check(self, names: Iterable[str]) -> None:
        manifest = self._manifest()
        self._check_commands(manifest)
        known = manifest and manifest["Files"]
        for name in (MANIFEST, *(() if self.own else names)):
            path = self.folder / name
            if not path.exists():
                continue
            ours = known is not None and (name == MANIFEST or _digest(path.read_bytes()) in known.get(name, []))
            if not ours:
                raise ForeignFileError.at(path, "this command", changed=True)

    def write(self, contents: Mapping[str, bytes | str]) -> None:
        """Writes files, each whole or not at all, the manifest before them; one command at a time.

        Args:
            contents: by file name; text is written as UTF-8.

        Raises:
            ForeignFileError: see :meth:`check`.
            OSError: the folder cannot be written to.
        """
        lock = self.folder / LOCK
        if not lock.exists():
            self.check(contents)  # a folder that is refused gets no lock
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            self._write(contents)

    def _write(self, contents: Mapping[str, bytes | str]) -> None:
        self._check(contents)
        known = dict((self._manifest() or {"Files": {}})["Files"])
        encoded = {name: text_bytes(c) if isinstance(c, str) else c for name, c in contents.items()}
        for name, content in encoded.items():
            # The file that is there stays known, so that a run killed between manifest and file finds nothing foreign.
            path = self.folder / name
            known[name] = [_digest(content), *([_digest(path.read_bytes())] if path.exists() else [])]
        manifest = {"GeneratedBy": [{"Name": GENERATOR, "Version": __version__}], "Commands": self.of, "Files": known}
        write_atomically(self.folder / MANIFEST, json_bytes(manifest, indent=1))
        for name, content in encoded.items():
            write_atomically(self.folder / name, content)

    def _check_commands(self, manifest: Mapping[str, Any] | None) -> None:
        others = self.of if manifest is None else manifest["Commands"]
        if others != self.of:
            raise ForeignFileError(
                f"{self.folder / MANIFEST}: found results of {others}; expected a folder without any, or one of "
                f"{self.of}, as tables and pages of both have the same names. Fix: choose another output folder"
            )

    def _manifest(self) -> dict[str, Any] | None:
        """What the manifest says; None where there is none of ours."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            ours = manifest["GeneratedBy"][0]["Name"] == GENERATOR
            # Manifests of earlier versions are all of cps4 segment, and of what works on its results.
            return {"Commands": SEGMENTATION, **manifest, "Files": dict(manifest["Files"])} if ours else None
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
