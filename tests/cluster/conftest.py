"""A real scheduler and real workers on this machine, and scans that harm them; see faults.py."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

PATIENCE_SECONDS = 600  # no measure of speed: on a busy machine the imports of a process take minutes
HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("cluster_coded_fixtures", HERE.parent / "inference" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _fixtures  # dataclasses look their module up
_spec.loader.exec_module(_fixtures)
bundle_dir, make_scan = _fixtures.bundle_dir, _fixtures.make_scan


class Processes:
    """A scheduler and workers.

    Attributes:
        folder: in which faults are noted.
        address: of the scheduler.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.started: list[subprocess.Popen] = []

    @property
    def environment(self) -> dict[str, str]:
        """Of the processes: faults are preloaded, and a scan may kill two workers."""
        own = {"CPS4_FAULTS": str(self.folder), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        own |= {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(HERE / "faults.py"), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}

    def start_scheduler(self) -> subprocess.Popen:
        """Starts it at its address."""
        return self._start("scheduler", "--host", "127.0.0.1", "--port", self.port, "--no-dashboard")

    def start_worker(self) -> subprocess.Popen:
        """Starts a worker with one thread, and the nanny that starts it again."""
        return self._start("worker", self.address, "--nthreads", 1, "--memory-limit", 0, "--no-dashboard")

    def wait_for(self, workers: int) -> None:
        """Waits until so many have come, however busy this machine is."""
        with distributed.Client(self.address, set_as_default=False, timeout=PATIENCE_SECONDS) as client:
            client.wait_for_workers(workers, timeout=PATIENCE_SECONDS)

    def _start(self, what: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *map(str, arguments)]
        with open(self.folder / f"{what}.log", "ab") as log:
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def noted(self, name: str) -> list[str]:
        """Lines of what the workers have noted."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def stop(self) -> None:
        """Ends all."""
        for process in self.started:
            process.terminate()
        for process in self.started:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop_workers(self) -> None:
        """Ends all but the first, the scheduler, and waits until they have ended what they were at."""
        for process in self.started[1:]:
            process.terminate()
        for process in self.started[1:]:
            process.wait(PATIENCE_SECONDS)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a command whose own workers are to preload the faults."""
    folder = tmp_path / "faults"
    folder.mkdir()
    return Processes(folder).environment


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    """A scheduler with two workers."""
    processes = Processes(tmp_path_factory.mktemp("faults"))
    processes.start_scheduler()
    processes.start_worker()
    processes.start_worker()
    processes.wait_for(2)
    yield processes
    processes.stop()
