"""The SHA-256 of a file, by which weights, label maps and results know each other again."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits, as ``sha256sum`` prints it; read in blocks of 1 MiB.

    Raises:
        OSError: not readable.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
