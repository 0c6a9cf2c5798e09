"""The SHA-256 of a file, by which weights, label maps and results know each other again."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cps4_monai.atomic_file import write_atomically
from cps4_monai.bundle_root import BUNDLE_WEIGHTS, weights_in

CONTENT = ", SHA-256 "  # between the name of a file or folder that a setting names and its content
_MAX_PATH = 1024  # a longer text is none


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


def known_sha256(path: str | Path) -> str:
    """:func:`file_sha256`, read again only where size or time of the file have changed.

    Raises:
        OSError: not readable.
    """
    state = Path(path).stat()
    return _sha256(str(path), state.st_mtime_ns, state.st_size)


def sha256_file(path: Path) -> Path:
    """The file with the SHA-256 of weights beside them, as bundles ship it."""
    return path.with_name(f"{path.name}.sha256")


def record_sha256(path: Path) -> str:
    """Writes :func:`sha256_file` of a file, in the form of ``sha256sum``, and gives the digest.

    Raises:
        OSError: the file cannot be read, or the other not written.
    """
    digest = file_sha256(path)
    write_atomically(sha256_file(path), f"{digest}  {path.name}\n")
    return digest


def check_recorded(path: str | Path) -> None:
    """Checks weights against :func:`sha256_file`, where there is one.

    Raises:
        ValueError: see :func:`check_digest`.
    """
    recorded = sha256_file(Path(path))
    if recorded.is_file():
        check_digest(str(path), file_sha256(path), recorded.read_bytes())


def check_digest(name: str, digest: str, recorded: bytes) -> None:
    """Checks a SHA-256 against the content of a ``.sha256`` file.

    Args:
        name: of the weights, for the message.
        digest: theirs.
        recorded: the file's bytes, with the digest as the first word.

    Raises:
        ValueError: it says another one.
    """
    expected = recorded.decode("ascii", errors="replace").split()[:1]
    if [word.lower() for word in expected] != [digest]:
        raise ValueError(
            f"{name} has SHA-256 {digest}, but its .sha256 says {' '.join(expected) or 'nothing'}: the weights are "
            "damaged or were changed. Fix: download or export the bundle again, or delete that file if you put other "
            "weights there yourself"
        )


def by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with files and folders (weights to start from) by name and content, in place of where they lie.

    A moved one is the same, a new one another. Folders are those of an absolute path: a word may be a folder's name.
    """
    return {key: _named(value) if _is_path(value) else value for key, value in settings.items()}


def is_same_setting(one: Any, other: Any) -> bool:
    """Whether two values are equal, a file or folder by its place on one side and :func:`by_content` on the other."""
    return bool(one == other) or any(
        isinstance(named, str) and CONTENT in named and _is_path(place) and _named(place) == named
        for place, named in ((one, other), (other, one))
    )


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or len(value) >= _MAX_PATH or value[:1] in ("$", "@"):
        return False
    return os.path.isfile(value) or (os.path.isabs(value) and os.path.isdir(value))


def _named(path: str) -> str:
    return f"{Path(path).name}{CONTENT}{_digest_of(Path(path))}"


def _digest_of(path: Path) -> str:
    """Of a bundle's folder that of its weights, as ``finetune_from`` takes them; of another that of its files."""
    if path.is_dir() and not (path / BUNDLE_WEIGHTS).is_file():
        inner = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
        seen = {name: file for name, file in sorted(inner.items()) if not any(p.startswith(".") for p in name.parts)}
        lines = [f"{name.as_posix()} {_digest_of(file)}" for name, file in seen.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return known_sha256(weights_in(path))


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, changed: int, size: int) -> str:
    return file_sha256(path)
