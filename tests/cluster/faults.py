"""Preloaded by the workers of these tests: what goes wrong in them, as files of the folder CPS4_FAULTS say.

A scan's name says what it does to its worker: "once" kills the first one in the middle of it, "kills" each; "slow"
takes its time. The file "full" holds the number of a worker's process whose disk is full. Opened weights are noted in
"opened", scans whose network pass has begun in "begun".
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

FOLDER = Path(os.environ["CPS4_FAULTS"])
SLOW_SECONDS = 0.5


def dask_setup(worker: object) -> None:
    """Called by Dask before the worker takes anything."""
    from cps4_monai.inference.bundle import Bundle
    from cps4_monai.inference.segment import Segmenter

    build, scores, fsync = Bundle.build_network, Segmenter.scores, os.fsync

    def noted_build(bundle, *arguments):
        with open(FOLDER / "opened", "a") as file:
            file.write(f"{os.getpid()}\n")
        return build(bundle, *arguments)

    def faulty_scores(segmenter, scan):
        name = scan.path.name
        with open(FOLDER / "begun", "a") as file:
            file.write(f"{os.getpid()} {name}\n")
        answer = scores(segmenter, scan)
        first = name.startswith("once") and not (FOLDER / name).exists()
        (FOLDER / name).touch()
        if first or name.startswith("kills"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SLOW_SECONDS if name.startswith("slow") else 0)
        return answer

    def full_fsync(handle):
        full = FOLDER / "full"
        if full.exists() and full.read_text() == str(os.getpid()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    Bundle.build_network, Segmenter.scores, os.fsync = noted_build, faulty_scores, full_fsync
