"""How many loader workers the shared memory of the system can serve; containers often have 64 MiB of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
BATCHES_PER_WORKER = 3  # torch's prefetch factor of 2, and the batch in use
OVERHEAD = 64 * 1024  # bytes of each batch that are whole pages, queues and locks


def workers_that_fit(asked: int, batch_bytes: int, folder: Path = SHARED_MEMORY, processes: int = 1) -> int:
    """Workers whose batches fit into the free shared memory; a worker that finds it full dies of a bus error.

    Args:
        asked: number of workers wanted.
        batch_bytes: size of one batch.
        folder: where the system keeps shared memory; where there is none (macOS, Windows) all workers are given.
        processes: of this machine that have as many workers each, as with several GPUs.

    Returns:
        ``asked`` or fewer, 0 included, with a warning in the log. Batches do not depend on it.
    """
    if asked == 0 or not folder.is_dir():
        return asked
    free = shutil.disk_usage(folder).free // processes
    each = BATCHES_PER_WORKER * (batch_bytes + OVERHEAD)
    fit = min(asked, free // each)
    if fit < asked:
        logger.warning(
            "%s has %.1f MiB free for a process, %d workers need %.1f MiB: using %d (with 0 the main process makes "
            "them, slower and the same). Fix: more shared memory, e.g. docker run --shm-size=1g",
            folder,
            free / 2**20,
            asked,
            asked * each / 2**20,
            fit,
        )
    return fit


def bytes_of(item: Any) -> int:
    """Size of all tensors of an item or a batch."""
    if isinstance(item, torch.Tensor):
        return item.element_size() * item.nelement()
    return sum(bytes_of(value) for value in item.values()) if isinstance(item, Mapping) else 0
