"""The client of a cluster, and the cluster itself where it is to be started."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cps4_monai.cluster.address import HOW_TO, ClusterError, SchedulerAddress
from cps4_monai.extras import require
from cps4_monai.threads import THREAD_VARIABLES, whole_cores

logger = logging.getLogger(__name__)
FIRST_WORKER_SECONDS = 120  # of a scheduler that runs; Slurm may let jobs wait for days
CLOSE_SECONDS = 30
TIMEOUTS = (TimeoutError, asyncio.TimeoutError)  # the same from Python 3.11 on
_THREADS = "distributed.nanny.pre-spawn-environ"


@contextmanager
def open_client(address: SchedulerAddress) -> Iterator[Any]:
    """A ``distributed.Client`` with at least one worker; what was started for it ends with it.

    Raises:
        ClusterError: no scheduler answers, or it has no worker.
        MissingExtraError: the extra ``cluster`` is not installed.
    """
    require("distributed", f"--scheduler {address.text}")
    from distributed import Client

    if not logger.isEnabledFor(logging.INFO):  # what matters of it is told by the command
        logging.getLogger("distributed").setLevel(logging.ERROR)
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    cluster = _started(address)
    try:
        try:
            client = Client(address.text if cluster is None else cluster, set_as_default=False)
        except (OSError, *TIMEOUTS) as error:
            raise ClusterError(
                f"--scheduler {address.text}: no scheduler answers there ({error}). Fix: start one with "
                f"'dask scheduler', and workers with 'dask worker {address.text}'"
            ) from error
        try:
            _wait_for_a_worker(client, address)
            yield client
        finally:
            _close(client, f"the connection to {address.text}")
    finally:
        if cluster is not None:
            _close(cluster, f"the workers of {address.text}")


def _close(what: Any, name: str) -> None:
    """Ends it; on a machine too busy to do so in time the run is no failure for that: all ends with this process."""
    try:
        what.close(timeout=CLOSE_SECONDS)
    except TIMEOUTS:
        logger.warning("%s: not closed within %d s; this ends with the command", name, CLOSE_SECONDS)


def _started(address: SchedulerAddress) -> Any:
    """The cluster that this process has, or None for one that runs elsewhere."""
    if address.kind == "slurm":
        from cps4_monai.cluster.slurm import slurm_cluster

        return slurm_cluster(address.file)
    return _local_cluster(address.workers) if address.kind == "local" else None


def _local_cluster(workers: int) -> Any:
    """Processes on this machine with a thread each; the cores are shared among them unless the user says otherwise."""
    import dask
    from distributed import LocalCluster

    threads = max(1, whole_cores() // workers)
    shared = {name: os.environ.get("OMP_NUM_THREADS", threads) for name in THREAD_VARIABLES}
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    with dask.config.set({f"{_THREADS}.{name}": value for name, value in shared.items()}):
        # No limit of memory: at Dask's a worker would be paused for good, as torch keeps what it once had.
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # Dask's own port, 8787, may be another command's
            silence_logs=logging.ERROR,
        )
    for name, value in before.items():  # the nannies leave them behind in this process
        if value is None:
            os.environ.pop(name, None)
    return cluster


def _wait_for_a_worker(client: Any, address: SchedulerAddress) -> None:
    if not client.nthreads():
        logger.warning("waiting for the first worker of %s", address.text)
    try:
        client.wait_for_workers(1, timeout=None if address.kind == "slurm" else FIRST_WORKER_SECONDS)
    except TIMEOUTS as error:
        raise ClusterError(
            f"--scheduler {address.text}: found no worker within {FIRST_WORKER_SECONDS} s; expected one or more. "
            f"Fix: start some with 'dask worker {address.text}', see {HOW_TO}"
        ) from error
