"""A program in two processes that torchrun starts, for tests of what they do together."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path

HANGS_SECONDS = 3600  # no measure of speed: on a busy machine the imports alone take minutes


def run_in_two_processes(program: Path, *arguments: Path | str, restarts: int = 0, **given: str) -> None:
    """Runs a Python file with one thread a process; fails with the end of what was printed.

    A process that ends with a thread of its connection fails, too: now and then that thread would take it down.

    Args:
        program: the file.
        arguments: of the file.
        restarts: how often both are started again after one has died.
        **given: further environment variables.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max-restarts={restarts}", *map(str, (__file__, program, *arguments))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **given}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=HANGS_SECONDS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-20000:]


def connection_threads() -> list[str]:
    """Names of the threads of this process that belong to a connection of CPUs; of Linux."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if name.startswith("pt_gloo")]


def _connection_has_no_thread() -> None:
    if threads := connection_threads():
        print(f"at its end the process has the threads {threads}; expected none of a connection", flush=True)
        os._exit(1)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    atexit.register(_connection_has_no_thread)  # the first to be registered is the last to be called
    exec(compile(Path(sys.argv[0]).read_text(), sys.argv[0], "exec"), {"__name__": "__main__"})  # its names go with it
