"""`--scheduler`: which texts name a cluster, and what a Slurm file may hold."""

from __future__ import annotations

import pytest

from cps4_monai.cluster.address import ClusterError, SchedulerAddress
from cps4_monai.cluster.slurm import read_slurm_file


def test_the_three_kinds(tmp_path) -> None:
    (tmp_path / "s.yaml").write_text("jobs: 2")
    assert SchedulerAddress.parse("local:3").workers == 3
    assert SchedulerAddress.parse(f"slurm:{tmp_path / 's.yaml'}").file == tmp_path / "s.yaml"
    assert SchedulerAddress.parse("tcp://node-7:8786").kind == SchedulerAddress.parse("tls://10.0.0.1:1").kind


@pytest.mark.parametrize(
    "text", ["local:0", "local", "local:two", "node:8786", "tcp://node", "slurm:", "", "tcp://a b:1"]
)
def test_what_names_none_is_told(text: str) -> None:
    with pytest.raises(ClusterError, match=r"expected tcp://HOST:PORT, local:N or slurm:FILE\.yaml"):
        SchedulerAddress.parse(text)


def test_a_slurm_file_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(ClusterError, match=r"no file .*no\.yaml"):
        SchedulerAddress.parse(f"slurm:{tmp_path / 'no.yaml'}")


def test_a_slurm_file_is_read(tmp_path) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra `cluster` is not installed")
    file = tmp_path / "s.yaml"
    file.write_text("jobs: {minimum: 1, maximum: 8}\ncores: 4\nmemory: 8GB\nqueue: gpu\nwalltime: '04:00:00'\n")
    assert read_slurm_file(file) == ({"cores": 4, "memory": "8GB", "queue": "gpu", "walltime": "04:00:00"}, 1, 8)
    file.write_text("jobs: 3\ncores: 4\nmemory: 8GB\n")
    assert read_slurm_file(file)[1:] == (3, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("jobs: 2\ncoers: 4", "found coers; expected 'jobs' and arguments of dask_jobqueue.SLURMCluster"),
        ("cores: 4", "'jobs' is None; expected a number from 1 on"),
        ("jobs: 0", "'jobs' is 0"),
        ("jobs: {minimum: 4, maximum: 2}", "expected a number from 1 on, or 'minimum' and 'maximum' from 1 on"),
        ("jobs: {minimum: 0, maximum: 2}", "expected a number from 1 on, or 'minimum' and 'maximum' from 1 on"),
        ("- jobs", "found list; expected keys and values"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_slurm_file_that_cannot_be_used_is_told(tmp_path, text: str, told: str) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra `cluster` is not installed")
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ClusterError) as caught:
        read_slurm_file(tmp_path / "s.yaml")
    assert told in str(caught.value) and "Fix: " in str(caught.value) and "s.yaml" in str(caught.value)
