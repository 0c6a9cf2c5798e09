"""An adaptive cluster, as Slurm's with `minimum` and `maximum`, gets the workers that the work is enough for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cps4_monai.cluster.address import SchedulerAddress
from cps4_monai.cluster.session import Session
from cps4_monai.cluster.worker import RunInWorker


@pytest.mark.parametrize(("most", "expected"), [(None, 2), (8, 8), (float("inf"), 2)])
def test_as_much_is_out_as_the_workers_to_come_can_take_up(tmp_path: Path, most: float | None, expected: int) -> None:
    """With no more out than the workers there are, Dask sees no need of another one."""
    session = Session(SchedulerAddress.parse("tcp://127.0.0.1:1"), RunInWorker(tmp_path, own_workers=True), "x")
    cluster = None if most is None else SimpleNamespace(_adaptive=SimpleNamespace(maximum=most))
    session.client = SimpleNamespace(nthreads=lambda: {"a": 1, "b": 1}, cluster=cluster)
    assert session.threads == expected


def test_dask_keeps_its_adaptive_part_where_it_is_looked_for() -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        cluster.adapt(minimum=1, maximum=3)
        assert cluster._adaptive.maximum == 3
