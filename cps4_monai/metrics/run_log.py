"""The numbers of a training run in one CSV file, in long form: what handlers write and reports draw."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

from cps4_monai.atomic_file import write_atomically

COLUMNS = ("stage", "epoch", "iteration", "name", "value")


class RunLog:
    """Appends values to a ``metrics.csv`` with the columns ``COLUMNS``, one line per value.

    Args:
        path: file; made with its header where it is not there, continued where it is, after the last whole line: a run
            that is killed while it writes leaves half of one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            write_atomically(self.path, ",".join(COLUMNS) + "\n")
            return
        content = self.path.read_text(encoding="utf-8")
        if not content.endswith("\n"):
            write_atomically(self.path, "".join(content.rpartition("\n")[:2]) or ",".join(COLUMNS) + "\n")

    def write(self, stage: str, epoch: int, iteration: int, values: Mapping[str, float]) -> None:
        """Appends one line per finite value."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for name, value in values.items():
                if isinstance(value, Real) and math.isfinite(value):
                    writer.writerow([stage, epoch, iteration, name, f"{value:.8g}"])

    def drop_from(self, stage: str, epoch: int) -> None:
        """Drops the lines of ``stage`` from ``epoch`` on, which a resumed run writes again."""
        lines = csv.DictReader(io.StringIO(self.path.read_text(encoding="utf-8")))
        rows = [row for row in lines if row["stage"] != stage or int(row["epoch"]) < epoch]
        kept = io.StringIO()
        writer = csv.DictWriter(kept, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, kept.getvalue())
