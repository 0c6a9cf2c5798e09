"""An adaptive cluster, as Slurm's with `minimum` and `maximum`, gets the workers that the work is enough for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from cps4_monai.cluster.address import ClusterError, SchedulerAddress
from cps4_monai.cluster.session import Session
from cps4_monai.cluster.worker import MachineError, RunInWorker


@pytest.mark.parametrize(("most", "expected"), [(None, 2), (8, 8), (float("inf"), 2)])
def test_as_much_is_out_as_the_workers_to_come_can_take_up(tmp_path: Path, most: float | None, expected: int) -> None:
    """With no more out than the workers there are, Dask sees no need of another one."""
    session = Session(SchedulerAddress.parse("tcp://127.0.0.1:1"), RunInWorker(tmp_path, own_workers=True), "x")
    cluster = None if most is None else SimpleNamespace(_adaptive=SimpleNamespace(maximum=most))
    session.client = SimpleNamespace(nthreads=lambda: {"a": 1, "b": 1}, cluster=cluster)
    assert session.threads == expected


def set_up(tenant: RunInWorker) -> RunInWorker:
    with suppress(ClusterError):
        asyncio.run(tenant.setup(SimpleNamespace(address="tcp://w:1")))
    return tenant


def test_a_worker_works_for_commands_of_one_folder_at_a_time(tmp_path: Path, monkeypatch) -> None:
    """A process has one working folder: names of one command would mean files of the other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first, beside, other = (RunInWorker(tmp_path / name, own_workers=False) for name in "aab")
    assert not set_up(first).fault and not set_up(beside).fault
    assert "works for a command that was given in" in set_up(other).fault and Path.cwd() == tmp_path / "a"
    for tenant in (first, beside):
        asyncio.run(tenant.teardown(None))
    again = set_up(RunInWorker(tmp_path / "b", own_workers=False))
    assert not again.fault and Path.cwd() == tmp_path / "b"
    asyncio.run(again.teardown(None))


def test_a_worker_that_could_not_be_set_up_hands_its_tasks_to_another(tmp_path: Path, monkeypatch) -> None:
    """Dask keeps a worker that joined late and failed, and gives it tasks."""
    monkeypatch.chdir(tmp_path)
    late = set_up(RunInWorker(tmp_path / "not mounted here", own_workers=False))
    with pytest.raises(MachineError, match="found no folder"), late.task():
        pytest.fail("the task ran")


def test_dask_keeps_its_adaptive_part_where_it_is_looked_for() -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        cluster.adapt(minimum=1, maximum=3)
        assert cluster._adaptive.maximum == 3
