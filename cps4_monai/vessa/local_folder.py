"""Hugging Face models from a local folder: no network, and an error that says what the folder lacks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


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
    """SHA-256 of a folder's JSON files and of names and sizes of all its files: enough to know another model by."""
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    return digest.hexdigest()
