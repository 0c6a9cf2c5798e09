"""What lives in a worker as long as a run does, and gives up within seconds when the run ends before its time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from distributed import WorkerPlugin, get_worker
from distributed.protocol.pickle import dumps, loads

from cps4_monai import __version__
from cps4_monai.cluster.address import ClusterError

GIVE_UP_SECONDS = 20.0
_AT_WORK: dict[int, Path] = {}  # of this worker process: the folder of each run that lives in it
_POLL_SECONDS = 0.05
Tenant = TypeVar("Tenant", bound="RunInWorker")


class MachineError(Exception):
    """Something is wrong with a worker's machine, not with what it was given: another worker is to do it.

    Attributes:
        worker: address of the worker.
        reason: what is wrong.
    """

    def __init__(self, worker: str, reason: str) -> None:
        super().__init__(worker, reason)
        self.worker, self.reason = worker, reason


class GivenUp(Exception):  # noqa: N818 (no error: the run was ended)
    """The run has ended; whatever is being worked on is left as it was before."""


class RunInWorker(WorkerPlugin):
    """A run's part in each worker: set up once, before the first task, also in workers that join later.

    Args:
        folder: the command's working folder; names that were given relative to it mean the same in the worker.
        own_workers: the command has started the workers: Ctrl-C reaches them as well, and is the command's business.

    Attributes:
        ended: set when the run is over; tasks look at it and give up.
        fault: why the worker cannot work for the run; "" where it can. Dask gives tasks to a worker that joined late
            though its setup failed, and these go to another one.
    """

    fault = ""

    def __init__(self, folder: Path, *, own_workers: bool) -> None:
        self.folder, self.own_workers, self.version = Path(folder), own_workers, __version__

    async def setup(self, worker: Any) -> None:
        """Called by Dask, in the worker's main thread, which is free for Dask while things are opened.

        Raises:
            ClusterError: the worker runs another version of this package, does not see the command's folder, or works
                for a command in another one: a process has one working folder.
        """
        self.address, self.ended = worker.address, threading.Event()
        self._lock, self._tasks = threading.Lock(), 0
        try:
            await self._set_up()
        except Exception as error:
            self.fault = str(error)
            _AT_WORK.pop(id(self), None)
            raise

    async def _set_up(self) -> None:
        if self.own_workers:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            logging.getLogger("distributed").setLevel(logging.CRITICAL)  # of a scheduler that ends before them
        if self.version != __version__:
            raise ClusterError(
                f"worker {self.address}: found cps4_monai {__version__}; expected {self.version}, the command's. "
                "Fix: start the workers from the same environment as the command"
            )
        if not self.folder.is_dir():
            raise ClusterError(
                f"worker {self.address}: found no folder {self.folder}, in which the command was given; expected a "
                "file system that all workers share. Fix: give the command in a shared folder"
            )
        others = sorted({str(folder) for folder in _AT_WORK.values() if folder != self.folder})
        if others:
            raise ClusterError(
                f"worker {self.address}: works for a command that was given in {others[0]}; expected all commands that "
                f"share workers to be given in one folder, this one in {self.folder}. Fix: give it there, wait for the "
                "other one (or restart the workers, if it was killed), or start workers of your own"
            )
        _AT_WORK[id(self)] = self.folder
        os.chdir(self.folder)
        await asyncio.to_thread(self.begin)

    def begin(self) -> None:
        """Opens what the tasks need; an error ends the run."""

    @contextmanager
    def task(self) -> Iterator[None]:
        """Around each task, so that the end of the run can wait for it.

        Raises:
            GivenUp: the run is over.
            MachineError: the worker could not be set up.
        """
        self.go_on()
        if self.fault:
            raise MachineError(self.address, self.fault)
        with self._lock:
            self._tasks += 1
        try:
            yield
        finally:
            with self._lock:
                self._tasks -= 1

    def go_on(self) -> None:
        """Called now and then by tasks.

        Raises:
            GivenUp: the run is over.
        """
        if self.ended.is_set():
            raise GivenUp

    async def teardown(self, worker: Any) -> None:
        """Called by Dask when the run is over or the worker closes: tells the tasks, and waits until they are gone."""
        self.ended.set()
        _AT_WORK.pop(id(self), None)
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while self._tasks and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)


def packed(function: Callable[[Any, Any], Any], item: Any) -> bytes:
    """A function and its item as the scheduler is to see them: it unpacks what it hands on, and would import torch."""
    sent: bytes = dumps((function, item))
    return sent


def on_worker(name: str, call: bytes) -> Any:
    """A task: the function of the run's part in this worker and of one item, see :func:`packed`."""
    tenant = get_worker().plugins[name]
    with tenant.task():
        function, item = loads(call)
        return function(tenant, item)
