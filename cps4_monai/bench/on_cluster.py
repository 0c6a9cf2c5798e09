"""A study's jobs on the workers of a Dask cluster: the same processes, each beside a worker that waits for it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cps4_monai.bench.folders import LOG
from cps4_monai.bench.plan import Job
from cps4_monai.bench.runner import (
    POLL_SECONDS,
    Ended,
    Process,
    Runner,
    Running,
    job_command,
    job_environment,
    start_process,
)
from cps4_monai.cluster.address import SchedulerAddress
from cps4_monai.cluster.session import Session
from cps4_monai.cluster.worker import GivenUp, RunInWorker


class RemoteProcess:
    """A job's process beside some worker.

    Args:
        session: of the run.
        command: without the interpreter, which is the worker's.
        log: file that the process appends to.
    """

    def __init__(self, session: Session, command: Sequence[str], log: Path) -> None:
        self.session, self.told = session, (tuple(command), log)
        self.future = session.submit(_run, self.told)

    def poll(self) -> int | None:
        """Its exit code, -9 where each worker that took it up died; None while it waits or runs.

        Raises:
            ClusterError: the scheduler is gone.
        """
        if not self.future.done():
            return None
        with self.session.lost_is_told():
            error = self.session.error_of(self.future)
            if isinstance(error, GivenUp):  # its worker closed: another one goes on from its last epoch
                self.future = self.session.submit(_run, self.told)
                return None
            return self.future.result() if error is None else -signal.SIGKILL

    def terminate(self) -> None:
        """Nothing yet: the end of the session ends all processes together."""

    def wait(self) -> int | None:
        """The exit code where there is one; see :meth:`terminate`."""
        return None


class ClusterRunner(Runner):
    """:class:`Runner` whose processes are started by workers, as many at a time as these have threads.

    Args:
        session: of the run.
        jobs: see :class:`Runner`.
        slots: jobs at a time, whatever the cluster has.
        watch: likewise.
        ended: likewise.
    """

    def __init__(
        self,
        session: Session,
        jobs: Sequence[Job],
        slots: int,
        watch: Callable[[Sequence[Running]], None],
        ended: Callable[[Ended], None],
    ) -> None:
        super().__init__(jobs, slots, watch, ended)
        self.session = session

    def begin(self, job: Job) -> Process:
        """Gives a job to the cluster."""
        return RemoteProcess(self.session, job_command(job)[1:], job.folder / LOG)

    def at_a_time(self) -> int:
        """Jobs that may run now."""
        with self.session.lost_is_told():
            return min(self.slots, self.session.threads)


@contextmanager
def cluster_runner(address: SchedulerAddress, *arguments: Any) -> Iterator[ClusterRunner]:
    """A runner on the workers of a cluster.

    Args:
        address: of the scheduler.
        arguments: of :class:`Runner`.

    Raises:
        ClusterError: the cluster cannot be used.
    """
    with Session(address, RunInWorker(Path.cwd(), own_workers=address.kind == "local"), "cps4-bench") as session:
        yield ClusterRunner(session, *arguments)


def _run(tenant: RunInWorker, told: tuple[Sequence[str], Path]) -> int:
    """The process, to its end or to the run's."""
    command, path = told
    with path.open("ab") as log:
        process = start_process([sys.executable, *command], log, job_environment(1))
    while (code := process.poll()) is None:
        if tenant.ended.wait(POLL_SECONDS):
            process.terminate()
            process.wait()
            raise GivenUp
    return code
