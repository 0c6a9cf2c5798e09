"""One training in a folder at a time: checkpoints and weights of two would be those of either."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK = ".training.lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder of a training; the lock of a process that was killed is free.

    Raises:
        ValueError: another process trains there.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"{folder}: another process trains in this folder; expected none. Fix: wait until it has ended, stop it, "
            "or choose another output folder"
        ) from None
    except OSError as error:  # some network mounts have no locks
        logger.debug("%s cannot be locked: %s", folder, error)
    try:
        yield
    finally:
        lock.release()  # the file stays: another process may wait for this very one
