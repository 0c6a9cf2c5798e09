"""Table cells that several sections of a study's report have."""

from __future__ import annotations

import math

from cps4_monai.bench.charts import share_name
from cps4_monai.metrics.bootstrap import Interval
from cps4_monai.report.page import Cell


def with_interval(interval: Interval, digits: int = 3, scale: float = 1.0, sign: bool = False) -> str:
    """ "0.612 [0.550, 0.671]"; a dash where there is nothing to average."""
    if not interval.n:
        return "–"
    form = f"{{:{'+' if sign else ''}.{digits}f}}".format
    mean = form(scale * interval.mean)
    if math.isnan(interval.low):
        return mean
    return f"{mean} [{form(scale * interval.low)}, {form(scale * interval.high)}]"


def share_cell(share: str) -> Cell:
    """A labeled share, sorted by its number."""
    return Cell(share_name(share), float(share) if share[:1].isdigit() else math.inf)
