"""What ``--scheduler`` names: a scheduler that runs, workers on this machine, or jobs of Slurm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

EXPECTED = "expected tcp://HOST:PORT, local:N or slurm:FILE.yaml"
_RUNNING = re.compile(r"(tcp|tls|ucx|ws|wss)://[^\s/]+:\d+")


class ClusterError(ValueError):
    """A cluster that cannot be used, or that was lost; the message says how to go on."""


@dataclass(frozen=True)
class SchedulerAddress:
    """Where the work goes.

    Attributes:
        kind: "running", "local" or "slurm".
        text: as it was given.
        workers: processes on this machine; of "local".
        file: YAML with what ``dask_jobqueue.SLURMCluster`` takes; of "slurm".
    """

    kind: str
    text: str
    workers: int = 0
    file: Path = Path()

    @classmethod
    def parse(cls, text: str) -> SchedulerAddress:
        """The address that a text names.

        Raises:
            ClusterError: it names none, or a file that is not there.
        """
        kind, _, rest = text.partition(":")
        if kind == "local" and rest.isdigit() and int(rest) > 0:
            return cls("local", text, workers=int(rest))
        if kind == "slurm" and rest:
            if not Path(rest).is_file():
                raise ClusterError(f"--scheduler {text}: no file {rest}; {EXPECTED}. Fix: write one, see {HOW_TO}")
            return cls("slurm", text, file=Path(rest))
        if _RUNNING.fullmatch(text):
            return cls("running", text)
        raise ClusterError(f"--scheduler is {text!r}; {EXPECTED}. Fix: see {HOW_TO}")


HOW_TO = "docs/how-to/many-scans.md"
