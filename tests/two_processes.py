"""A program in two processes that torchrun starts, for tests of what they do together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HANGS_SECONDS = 3600  # no measure of speed: on a busy machine the imports alone take minutes


def run_in_two_processes(program: Path, *arguments: Path, restarts: int = 0, **given: str) -> None:
    """Runs a Python file with one thread a process; fails with the end of what was printed.

    Args:
        program: the file.
        arguments: of the file.
        restarts: how often both are started again after one has died.
        **given: further environment variables.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max-restarts={restarts}", *map(str, (program, *arguments))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **given}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=HANGS_SECONDS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-20000:]
