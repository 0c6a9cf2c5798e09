"""Threads on a machine that is shared: waiting that gives the core away, and no more threads than cores are free."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

logger = logging.getLogger(__name__)

# libgomp (torch on Linux) and the OpenMP of LLVM and Intel (torch elsewhere); read once, when the library is loaded.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
OWN_CHOICE = (*WAITING, "GOMP_SPINCOUNT")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # of processes that are started
LOOK_SECONDS = 0.2
CPU_STAT = Path("/proc/stat")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Has OpenMP threads sleep, not spin, while they wait for one another; to be called before torch is imported.

    A thread that spins takes the core from the very thread that it waits for, as soon as another process wants one of
    the cores. Where any of the variables is set already, nothing is changed.
    """
    if not any(name in environment for name in OWN_CHOICE):
        environment.update(WAITING)


def limit_threads(look_seconds: float = LOOK_SECONDS) -> int:
    """Gives torch as many threads as cores are free now; called once by each command that computes.

    OMP_NUM_THREADS, where it is set, is left alone. With one thread too many, every step waits for the thread that
    shares its core.

    Args:
        look_seconds: how long the load is looked at.

    Returns:
        Threads of torch.
    """
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    cores, busy = usable_cores(), busy_cores(look_seconds)
    threads = min(torch.get_num_threads(), free_threads(cores, busy))
    if threads < torch.get_num_threads():
        logger.info(
            "%d of %d threads: %.1f of %.1f cores are busy with other work (OMP_NUM_THREADS sets their number)",
            threads,
            torch.get_num_threads(),
            busy,
            cores,
        )
        torch.set_num_threads(threads)
    return threads


def free_threads(cores: float, busy: float) -> int:
    """Threads for ``cores`` of which ``busy`` are in use by others: what is left, rounded, and at least 1."""
    return max(1, math.floor(cores - busy + 0.5))


def usable_cores() -> float:
    """Cores that this process may run on, by its affinity and by the quota of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no such quota here
        return cores


def whole_cores() -> int:
    """:func:`usable_cores` rounded down, at least 1: how many processes of one thread each the machine bears."""
    return max(1, int(usable_cores()))


def busy_cores(look_seconds: float = LOOK_SECONDS) -> float:
    """Cores in use by other processes, of those that this one may run on.

    Linux counts the time of each core; elsewhere the load average of the last minute must do, and where there is none,
    nothing is taken to be busy.
    """
    if sys.platform != "linux" or not CPU_STAT.is_file():
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = os.sched_getaffinity(0)
    before, own, started = _busy_seconds(cores), time.process_time(), time.perf_counter()
    time.sleep(look_seconds)
    busy, own = _busy_seconds(cores) - before, time.process_time() - own
    return max(0.0, (busy - own) / (time.perf_counter() - started))


def _busy_seconds(cores: set[int]) -> float:
    """Seconds that the cores have been busy since the machine started; time stolen by other machines counts, too."""
    ticks = 0
    for line in CPU_STAT.read_text(encoding="ascii").splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _, _, irq, soft_irq, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + soft_irq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
