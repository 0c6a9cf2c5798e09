"""OpenMP threads sleep while they wait, and their number follows the cores that are free."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from cps4_monai import threads
from cps4_monai.threads import busy_cores, free_threads, limit_threads, usable_cores, wait_passively

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own counts")


def test_threads_wait_passively_unless_the_user_chose():
    fresh: dict[str, str] = {}
    wait_passively(fresh)
    assert fresh == {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        chosen = {name: "7"}
        wait_passively(chosen)
        assert chosen == {name: "7"}


@pytest.mark.parametrize(
    ("cores", "busy", "wanted"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 1.0, 1), (2, 2.0, 1), (2, 5.0, 1), (16, 3.2, 13), (1.5, 0, 2), (0.5, 0, 1)],
)
def test_what_is_free_is_used_and_never_less_than_one(cores, busy, wanted):
    assert free_threads(cores, busy) == wanted


@pytest.fixture
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2.0)
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(("busy", "wanted"), [(0.0, 2), (1.0, 1)])
def test_torch_gets_the_free_cores(two_threads, busy, wanted):
    two_threads.setattr(threads, "busy_cores", lambda seconds: busy)
    assert limit_threads() == wanted == torch.get_num_threads()


def test_a_number_that_the_user_set_stays(two_threads):
    two_threads.setenv("OMP_NUM_THREADS", "2")
    two_threads.setattr(threads, "busy_cores", lambda seconds: 2.0)
    assert limit_threads() == 2 == torch.get_num_threads()


def test_the_quota_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    whole = usable_cores()
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores() == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == whole


@linux
def test_another_process_that_computes_is_seen(monkeypatch, tmp_path):
    counts = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu{} {} 0 50 1000 0 0 0 0 0 0\n"
    core = min(os.sched_getaffinity(0))
    stat, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(threads, "CPU_STAT", stat)
    stat.write_text(counts.format(core, 100))
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: stat.write_text(counts.format(core, 100 + ticks)))
    assert busy_cores(1.0) == pytest.approx(1.0)


def test_the_command_chooses_before_torch_is_loaded():
    program = (
        "import os, sys; from click.testing import CliRunner; from cps4_monai.cli import main; "
        "CliRunner().invoke(main, ['segment', '--help']); print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    free = {name: value for name, value in os.environ.items() if name not in threads.OWN_CHOICE}
    done = subprocess.run([sys.executable, "-c", program], env=free, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE", "False"]
