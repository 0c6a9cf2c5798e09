"""The files of a run beside those of its scans: written whole, and never over a file that is not ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cps4_monai import __version__
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.label_ownership import GENERATOR, ForeignFileError
from cps4_monai.encoding import json_bytes

MANIFEST = "cps4_files.json"


class RunFiles:
    """Files of ours at the top of an output folder, known by their hashes in ``cps4_files.json``.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def check(self, names: Iterable[str]) -> None:
        """Checks that files of these names may be written.

        Raises:
            ForeignFileError: one is there that is not ours, or was changed since.
        """
        known = self._known()
        for name in (MANIFEST, *names):
            path = self.folder / name
            if not path.exists():
                continue
            ours = known is not None and (name == MANIFEST or _digest(path.read_bytes()) in known.get(name, []))
            if not ours:
                raise ForeignFileError(
                    f"{path}: found a file that this command did not write (or that was changed since); expected none "
                    "or one of ours, as it is never overwritten. Fix: choose another output folder, or move the "
                    "file away"
                )

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Writes files, each whole or not at all, the manifest before them.

        Raises:
            ForeignFileError: see :meth:`check`.
            OSError: the folder cannot be written to.
        """
        self.check(contents)
        known = self._known() or {}
        for name, content in contents.items():
            # The old file stays known, so that a run killed between manifest and file finds nothing foreign.
            known[name] = list(dict.fromkeys([_digest(content), *known.get(name, [])[:1]]))
        manifest = {"GeneratedBy": [{"Name": GENERATOR, "Version": __version__}], "Files": known}
        write_atomically(self.folder / MANIFEST, json_bytes(manifest, indent=1))
        for name, content in contents.items():
            write_atomically(self.folder / name, content)

    def _known(self) -> dict[str, list[str]] | None:
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            return dict(manifest["Files"]) if manifest["GeneratedBy"][0]["Name"] == GENERATOR else None
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
