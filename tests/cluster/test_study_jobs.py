"""`cps4 bench run --scheduler`: the jobs of a study beside workers, and Slurm's workers by a stand-in of sbatch."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from cps4_monai.bench import on_cluster
from cps4_monai.bench.plan import Job
from cps4_monai.cluster.address import SchedulerAddress

STAND_IN = """import json, os, sys, time, pathlib
folder = pathlib.Path(sys.argv[1]); behaviour = json.loads((folder / 'task.json').read_text())['behaviour']
open(folder.parent / 'order', 'a').write(folder.name + '\\n')
if behaviour == 'fail': sys.exit('Error: no labeled subject')
if behaviour == 'hang':
    (folder.parent / 'hanging').write_text(str(os.getpid()))
    os.replace(folder.parent / 'hanging', folder.parent / 'hangs')
    time.sleep(3600)
if behaviour == 'loses its worker' and not (folder / 'pids').exists():
    (folder / 'pids.new').write_text(f'{os.getppid()} {os.getpid()}')
    os.replace(folder / 'pids.new', folder / 'pids')
    time.sleep(3600)
(folder / 'done.json').write_text(json.dumps({'seconds': {'training': 1.0}}))
"""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Function that makes a job whose process does what it is told, in place of the training."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    script = str(tmp_path / "stand_in.py")
    monkeypatch.setattr(on_cluster, "job_command", lambda job: [sys.executable, script, str(job.folder)])

    def make(name: str, after: Job | None = None, behaviour: str = "work") -> Job:
        task = {"settings": {}, "behaviour": behaviour}
        kind = "cell" if after else "stage1"
        return Job(name, kind, tmp_path / name, {"name": name}, task, (), after, "m", 1)

    return make


@pytest.mark.cluster
def test_jobs_run_beside_workers_of_slurm_in_their_order(job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra `cluster` is not installed")
    for name, script in (
        (
            "sbatch",
            f'#!/bin/sh\ncp "$1" {tmp_path}/script\nsetsid sh {tmp_path}/script >{tmp_path}/worker.log 2>&1 &\n'
            f"echo $! >{tmp_path}/pid\necho Submitted batch job 7\n",
        ),
        ("scancel", f"#!/bin/sh\nkill -- -$(cat {tmp_path}/pid)\n"),
    ):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    file = tmp_path / "slurm.yaml"
    file.write_text("jobs: 1\ncores: 2\nmemory: 2GB\nprocesses: 1\ninterface: lo\nqueue: short\n")
    broken, whole = job("broken", behaviour="fail"), job("whole")
    jobs = [broken, job("x", broken), whole, job("y", whole)]
    ended = []
    with on_cluster.cluster_runner(
        SchedulerAddress.parse(f"slurm:{file}"), jobs, 4, lambda running: None, ended.append
    ) as runner:
        results = {result.job.name: result.error for result in runner.run()}
    assert "#SBATCH -p short" in (tmp_path / "script").read_text()
    assert results["broken"] == "no labeled subject" and "its stage 1 failed" in results["x"]
    assert results["whole"] == results["y"] == "" and len(ended) == 4
    order = (tmp_path / "order").read_text().split()
    assert "x" not in order and order.index("whole") < order.index("y")


@pytest.mark.cluster
def test_a_job_whose_worker_is_killed_is_started_beside_another(job, cluster, tmp_path: Path) -> None:
    left, killed = job("left", behaviour="loses its worker"), []

    def kill(running) -> None:
        if (left.folder / "pids").is_file() and not killed:
            killed.extend(map(int, (left.folder / "pids").read_text().split()))
            os.kill(killed[0], signal.SIGKILL)

    told = ([left, job("other")], 2, kill, lambda result: None)
    with on_cluster.cluster_runner(SchedulerAddress.parse(cluster.address), *told) as runner:
        results = {result.job.name: result.error for result in runner.run()}
    assert killed and results == {"left": "", "other": ""}
    assert (tmp_path / "order").read_text().split().count("left") == 2
    os.kill(killed[1], signal.SIGKILL)  # the process that outlived its worker


def test_an_interrupt_ends_the_jobs_of_all_workers(job, tmp_path: Path) -> None:
    def interrupt(running) -> None:
        if (tmp_path / "hangs").is_file():
            raise KeyboardInterrupt

    told = ([job("long", behaviour="hang")], 1, interrupt, lambda result: None)
    with (
        pytest.raises(KeyboardInterrupt),
        on_cluster.cluster_runner(SchedulerAddress.parse("local:1"), *told) as runner,
    ):
        runner.run()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hangs").read_text()), 0)
