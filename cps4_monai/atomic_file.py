"""Files and folders, whole or not there: written beside, flushed to disk, then renamed. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cps4_monai.encoding import text_bytes

PARTIAL = ".partial-"
_ATTEMPTS = 50
_OF_ANOTHER = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)  # another process took the folder away, or put one there


def write_atomically(path: str | Path, content: bytes | str | Callable[[Path], Any], *, shared: bool = False) -> Path:
    """Fills a file beside ``path`` and renames it to ``path`` once it is on the disk.

    Whatever happens on the way (an exception, a kill, a full disk), a file that was at ``path`` before stays whole, and
    no reader ever sees half of one.

    Args:
        path: the file's final place; missing folders are made.
        content: bytes, text (written as UTF-8, see :mod:`cps4_monai.encoding`), or a function that writes to the path
            that it is given, whose suffix is that of ``path``.
        shared: several threads or processes may write this file at one time; each then writes beside under a name of
            its own. Else there is one name for all attempts, so that what a killed process left behind is overwritten.

    Returns:
        ``path``.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; nothing is left behind then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{PARTIAL}{f'{uuid.uuid4().hex}-' if shared else ''}{path.name}")
    try:
        if callable(content):
            content(beside)
        else:
            beside.write_bytes(text_bytes(content) if isinstance(content, str) else content)
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno is not None and error.filename in (None, str(beside)):  # None: as of a full disk
            error.filename = str(path)
        raise
    except BaseException as error:
        refusal = _refusal(beside) if isinstance(error, RuntimeError) else None
        beside.unlink(missing_ok=True)
        if refusal is None:
            raise
        raise OSError(refusal.errno, refusal.strerror, str(path)) from error
    _flush_folder(path.parent)
    return path


def _refusal(beside: Path) -> OSError | None:
    """Why a file cannot grow, where it cannot: PyTorch says "iostream error" of a full disk."""
    try:
        with beside.open("ab") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def _put_in_place(folder: Path, path: Path, before: Path) -> None:
    """Renames a folder to ``path``, what is there to ``before``; again where another process was between the two."""
    for attempt in range(_ATTEMPTS):
        try:
            if path.exists():
                os.replace(path, before)
            os.replace(folder, path)
            return
        except OSError as error:
            if error.errno not in _OF_ANOTHER or not path.parent.is_dir() or attempt == _ATTEMPTS - 1:
                raise
            if path.exists():
                shutil.rmtree(before, ignore_errors=True)


def write_folder_atomically(path: str | Path, fill: Callable[[Path], Any]) -> Path:
    """Fills a folder beside ``path`` and renames it to ``path`` once its files are on the disk.

    A folder that was at ``path`` before stays as it is until the new one is complete; a kill between the two renames
    leaves none at ``path``, never half of one. Several processes may write the same folder at one time.

    Args:
        path: the folder's final place; missing parents are made.
        fill: writes the files into the empty folder that it is given.

    Returns:
        ``path``.

    Raises:
        OSError: the place cannot be written to, or the disk is full; nothing is left behind then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{PARTIAL}{uuid.uuid4().hex}-"
    beside, before = path.with_name(f"{mark}{path.name}"), path.with_name(f"{mark}before-{path.name}")
    beside.mkdir()
    try:
        fill(beside)
        for file in (entry for entry in beside.rglob("*") if entry.is_file()):
            with file.open("r+b") as opened:
                os.fsync(opened.fileno())
        _put_in_place(beside, path, before)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        if before.exists() and not path.exists():
            os.replace(before, path)
        raise
    finally:
        shutil.rmtree(before, ignore_errors=True)
    _flush_folder(path.parent)
    return path


def _flush_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where the system can flush folders; Windows and some mounts cannot."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
