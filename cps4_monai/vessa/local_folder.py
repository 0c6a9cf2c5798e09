"""Hugging Face models from a local folder: no network, and an error that says what the folder lacks."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from cps4_monai.file_hash import file_sha256


def load_locally(loader: Any, folder: str | Path | None, what: str, setting: str) -> Any:
    """What a loader's ``from_pretrained`` finds in a folder.

    Args:
        loader: a class of transformers.
        folder: the folder.
        what: it should hold, for the message.
        setting: that names the folder, for the message.

    Raises:
        ValueError: no such folder, or it cannot be loaded; says the fix.
    """
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"{setting} is {folder}; expected a folder with a {what}. Fix: save one with save_pretrained")
    try:
        return loader.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"{setting} is {folder}, which holds no {what} that can be loaded ({reason}). Fix: save it there whole, "
            "with its configuration, weights and, where it has them, processor and tokenizer"
        ) from error


def folder_digest(folder: str | Path) -> str:
    """SHA-256 of names and content of a folder's files, weights included; its own folders are not looked into.

    Both stages of a run ask; a file that has not changed since is read once, for weights may be many gigabytes.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        state = file.stat()
        digest.update(f"{file.name} {_content(file.resolve(), state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _content(file: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; of another size, or changed at another time, it is another entry of the cache."""
    return file_sha256(file)
