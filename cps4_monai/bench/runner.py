"""Runs jobs as processes, as many at a time as the machine bears; a crash harms its own job only."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from cps4_monai.bench.folders import LOG
from cps4_monai.bench.plan import Job
from cps4_monai.failure import one_line
from cps4_monai.sigterm import sigterm_as_interrupt
from cps4_monai.threads import THREAD_VARIABLES, whole_cores

logger = logging.getLogger(__name__)
GIBIBYTE = 1024**3
MEMORY_PER_JOB = 2.5 * GIBIBYTE  # a process of the studies' size with torch, MONAI and its data
POLL_SECONDS = 0.2


class Process(Protocol):
    """A job's process, here or elsewhere, as :class:`subprocess.Popen` has it."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def terminate(self) -> None:
        """Has it end."""
        ...

    def wait(self) -> int | None:
        """Waits until it has ended."""
        ...


@dataclass
class Running:
    """A job that is being worked on."""

    job: Job
    process: Process
    since: float


@dataclass(frozen=True)
class Ended:
    """A job that came to its end, or that could not start: its stage 1 failed, or its folder cannot be written to."""

    job: Job
    seconds: float
    error: str


def auto_jobs(device: str | None = None) -> int:
    """Jobs at a time: one per core, as far as the free memory goes; on a GPU one, which has it to itself.

    Args:
        device: that the jobs are told to use; None: what the configs say, the GPU where there is one.
    """
    from cps4_monai.device import select_device

    if select_device(device or "auto").type != "cpu":
        return 1
    free = 0.0
    info = Path("/proc/meminfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        free = float(lines.get("MemAvailable", "0 kB").split()[0]) * 1024
    by_memory = int(free // MEMORY_PER_JOB) if free else whole_cores()
    return max(1, min(whole_cores(), by_memory))


def job_environment(slots: int) -> dict[str, str]:
    """The environment of a job: threads divided among the slots, unless the user has set them."""
    environment = dict(os.environ)
    threads = str(max(1, whole_cores() // max(1, slots)))
    for name in THREAD_VARIABLES:
        environment.setdefault(name, environment.get("OMP_NUM_THREADS", threads))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def job_command(job: Job) -> list[str]:
    """The process of a job."""
    return [sys.executable, "-m", "cps4_monai.bench.task", str(job.folder), *job.sections]


def start_process(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a job's process, its output appended to its log."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(environment)
    )


class Runner:
    """Works a list of jobs off.

    Args:
        jobs: in order; a job that needs another one waits for it if that is in the list.
        slots: jobs at a time.
        watch: called a few times per second with what runs, for a display.
        ended: called with each job that came to its end.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: int,
        watch: Callable[[Sequence[Running]], None] = lambda running: None,
        ended: Callable[[Ended], None] = lambda result: None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"{slots} jobs at a time; expected at least 1")
        self.waiting = list(jobs)
        self.slots = min(slots, max(1, len(self.waiting)))
        self.watch, self.ended = watch, ended
        self.running: list[Running] = []
        self.results: list[Ended] = []
        self._environment = job_environment(self.slots)

    def run(self) -> list[Ended]:
        """Until nothing is left; an interrupt or SIGTERM ends the processes, which resume when started again."""
        with sigterm_as_interrupt():
            try:
                while self.waiting or self.running:
                    self._start()
                    self._collect()
                    self.watch(self.running)
                    if self.running:
                        time.sleep(POLL_SECONDS)
            finally:
                for running in self.running:
                    running.process.terminate()
                for running in self.running:
                    running.process.wait()
        return self.results

    def begin(self, job: Job) -> Process:
        """Starts a job that is prepared."""
        with (job.folder / LOG).open("ab") as log:
            return start_process(job_command(job), log, self._environment)

    def at_a_time(self) -> int:
        """Jobs that may run now."""
        return self.slots

    def _start(self) -> None:
        for job in list(self.waiting):
            before = job.after
            if before is not None and before.left:
                if before in self.waiting or any(running.job is before for running in self.running):
                    continue
                if "training" in before.left:
                    self.waiting.remove(job)
                    self._end(Ended(job, 0.0, f"its stage 1 failed, see {before.folder / LOG}"))
                    continue
            if len(self.running) >= self.at_a_time():
                return
            self.waiting.remove(job)
            try:
                job.prepare()
            except (ValueError, OSError) as error:
                self._end(Ended(job, 0.0, one_line(error)))
                continue
            self.running.append(Running(job, self.begin(job), time.monotonic()))

    def _collect(self) -> None:
        for running in list(self.running):
            code = running.process.poll()
            if code is None:
                continue
            self.running.remove(running)
            error = "" if code == 0 and not running.job.left else _reason(running.job.folder / LOG, code)
            self._end(Ended(running.job, time.monotonic() - running.since, error))

    def _end(self, result: Ended) -> None:
        self.results.append(result)
        self.ended(result)


def _reason(log: Path, code: int) -> str:
    """Last line of a job's log, which is its error, or the signal that ended it."""
    if code < 0:
        return f"ended by signal {-code}, see {log}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return last.removeprefix("Error: ") if last.startswith("Error: ") else f"exit code {code}, see {log}"
