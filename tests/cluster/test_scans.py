"""`cps4 segment --scheduler` with real worker processes: the same files as one process, and each fault of a cluster."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cps4_monai import segment_scans
from cps4_monai.cluster.address import ClusterError, SchedulerAddress
from cps4_monai.cluster.opening import open_client
from cps4_monai.data.label_ownership import is_ours
from cps4_monai.inference import scan_views

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
PATIENCE_SECONDS = 600  # no measure of speed: this machine is shared; nothing waits that long where all goes well


@pytest.fixture
def run(bundle_dir, make_scan, tmp_path):
    """Function that makes scans of these names and segments them: ``run(names, scheduler, out=...)``."""

    def call(names, scheduler, out: str = "out", **settings):
        for number, name in enumerate(names):
            if not (tmp_path / "in" / f"{name}.nii.gz").exists():
                make_scan(slices=3, seed=number).save(tmp_path / "in" / f"{name}.nii.gz")
        given = {"weights": bundle_dir, "device": "cpu", "qc": False, **settings}
        return segment_scans(tmp_path / "in", tmp_path / out, scheduler=scheduler, **given)

    return call


def _without_time(path: Path) -> bytes:
    """A file's content; of records, tables and pages without what depends on the clock."""
    content = path.read_bytes()
    if path.name.endswith("_dseg.json"):
        return json.dumps({k: v for k, v in json.loads(content).items() if k != "Seconds"}).encode()
    if path.name == "scans.csv":
        rows = csv.DictReader(content.decode().splitlines())
        return json.dumps([{k: v for k, v in row.items() if k != "seconds"} for row in rows]).encode()
    if path.name == "report.html":
        rows = re.sub(rb'<td class="[a-z ]*num"[^>]*data-column="seconds">[^<]*</td>', b"", content)
        return re.sub(rb'(Time per scan</div>\s*<div class="card-value">)[^<]*', rb"\1", rows)
    if path.name == "cps4_files.json":
        return b""  # hashes of the above
    return content


def _whole(folder: Path) -> bool:
    """Whether each label map has its sidecar, and nothing half written lies beside them."""
    labels = list(folder.glob("*_dseg.nii.gz"))
    return all(is_ours(label) for label in labels) and not list(folder.rglob(".partial-*"))


def _label_maps(folder: Path) -> int:
    return len(list(folder.glob("[!.]*_dseg.nii.gz")))


@pytest.mark.parametrize("in_page", [20, 2])
def test_files_tables_and_report_equal_those_of_one_process(run, cluster, tmp_path, monkeypatch, in_page) -> None:
    monkeypatch.setattr(scan_views, "MAX_IN_PAGE", in_page)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.nii.gz").write_bytes(b"\x1f\x8bbroken")
    names = ["a", "b", "c"]
    told, opened = [], len(cluster.noted("opened"))
    run(names, None, "here", qc=True)
    result = run(names, cluster.address, "there", qc=True, on_scan=lambda *scan: told.append(scan[1:]))
    here, there = (sorted(p.relative_to(tmp_path / o) for p in (tmp_path / o).rglob("*")) for o in ("here", "there"))
    assert here == there and (Path("a_view.html") in here) == (in_page == 2)
    different = [p for p in here if _without_time(tmp_path / "here" / p) != _without_time(tmp_path / "there" / p)]
    assert not different
    assert {one.name: one.status for one in result.outcomes} == {"bad": "failed"} | dict.fromkeys("abc", "done")
    assert told == [(n, 4) for n in range(1, 5)]
    by = cluster.noted("opened")[opened:]
    assert len(by) == len(set(by)) == 2  # each worker once, however many scans


def test_a_worker_that_dies_in_the_middle_and_a_scan_that_kills_each_time(run, cluster, tmp_path) -> None:
    result = run(["a", "b", "kills", "once", "z"], cluster.address)
    by_name = {one.name: one for one in result.outcomes}
    assert (
        by_name["kills"].status == "failed"
        and "each of the 2 workers that took it up, alone at last, died" in by_name["kills"].reason
    )
    assert {name: one.status for name, one in by_name.items() if name != "kills"} == dict.fromkeys("ab", "done") | {
        "once": "done",
        "z": "done",
    }
    begun = [line.split() for line in cluster.noted("begun")]
    once, kills = ([process for process, name in begun if name == f"{scan}.nii.gz"] for scan in ("once", "kills"))
    assert len(once) >= 2 and len(set(once)) == len(once)  # by another process
    assert len(kills) in (3, 4)  # as one of several, then alone: each time two at most
    names = [name for _, name in begun]
    last = len(names) - 1 - names[::-1].index("kills.nii.gz")
    assert set(names[last + 1 :]) <= {"once.nii.gz"}  # at the end, where nothing begins but the other suspect
    assert _whole(tmp_path / "out") and not (tmp_path / "out/kills_dseg.nii.gz").exists()
    assert "kills" in (tmp_path / "out/failures.csv").read_text()


def test_a_full_disk_on_one_worker_is_no_scans_fault(run, cluster, tmp_path, caplog) -> None:
    cluster.wait_for(2)
    full: list[str] = []

    def fill(outcome, done, total) -> None:
        if not full:
            full.append(cluster.noted("begun")[-1].split()[0])
            (cluster.folder / "full").write_text(full[0])

    result = run([f"slow{n}" for n in range(6)], cluster.address, on_scan=fill)
    assert [one.status for one in result.outcomes] == ["done"] * 6 and _whole(tmp_path / "out")
    assert "is retired: [Errno 28] No space left on device" in caplog.text


def test_where_no_worker_has_room_the_run_ends_with_what_to_do(run, cluster, tmp_path, monkeypatch) -> None:
    from cps4_monai.cluster import session

    monkeypatch.setattr(session, "RETURN_SECONDS", 1.0)
    cluster.wait_for(1)

    def fill(outcome, done, total) -> None:
        (cluster.folder / "full").write_text(cluster.noted("begun")[-1].split()[0])

    with pytest.raises(ClusterError, match=r"no worker is left, the last one had: .*No space left.*Fix: "):
        run([f"slow{n}" for n in range(6)], cluster.address, on_scan=fill)
    assert _whole(tmp_path / "out")
    (cluster.folder / "full").unlink()


@pytest.mark.cluster
def test_a_scheduler_that_goes_is_told_and_the_same_command_resumes(run, cluster, tmp_path) -> None:
    names = [f"slow{n}" for n in range(6)]
    cluster.start_worker()  # a test before may have retired all
    cluster.wait_for(1)

    def kill(outcome, done, total) -> None:
        if done == 2:
            cluster.started[0].kill()

    with pytest.raises(ClusterError, match=r"is gone .* it does what is missing"):
        run(names, cluster.address, on_scan=kill)
    cluster.started[0].wait()
    cluster.stop_workers()
    there = _label_maps(tmp_path / "out")
    assert 2 <= there < 6 and _whole(tmp_path / "out")
    cluster.start_scheduler()
    cluster.start_worker()
    cluster.wait_for(1)
    result = run(names, cluster.address)
    statuses = [one.status for one in result.outcomes]
    assert statuses.count("kept") == there and statuses.count("done") == 6 - there


@pytest.mark.cluster
def test_ctrl_c_ends_command_and_workers_and_leaves_nothing_half_written(environment, bundle_dir, make_scan, tmp_path):
    for number in range(30):
        make_scan(slices=3).save(tmp_path / f"in/slow{number}.nii.gz")
    command = [sys.executable, "-m", "cps4_monai.cli", "segment", tmp_path / "in", "-o", tmp_path / "out"]
    command += ["-w", bundle_dir, "-d", "cpu", "--no-qc", "--scheduler", "local:1"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # Whoever starts the tests in the background of a shell has SIGINT ignored, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    while process.poll() is None and not _label_maps(tmp_path / "out"):
        time.sleep(0.02)
    group, asked, there = os.getpgid(process.pid), time.monotonic(), _label_maps(tmp_path / "out")
    os.killpg(group, signal.SIGINT)  # as a terminal does: command and workers
    assert process.wait(PATIENCE_SECONDS) == 1 and "Aborted" in (tmp_path / "log").read_text()
    while _lives(group) and time.monotonic() - asked < PATIENCE_SECONDS:
        time.sleep(0.05)
    assert not _lives(group)
    # Not by the clock, which means little on a shared machine: one may have been done, and one more begun, meanwhile.
    assert 1 <= there <= _label_maps(tmp_path / "out") <= there + 2 and _whole(tmp_path / "out")


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
        return True
    except ProcessLookupError:
        return False


def test_a_connection_that_is_slow_to_close_is_no_failure_of_a_run(cluster, monkeypatch, caplog) -> None:
    cluster.start_worker()  # a test before may have retired all
    cluster.wait_for(1)
    close = distributed.Client.close

    def slow(client, timeout) -> None:
        close(client, timeout)
        raise TimeoutError

    monkeypatch.setattr(distributed.Client, "close", slow)
    with open_client(SchedulerAddress.parse(cluster.address)) as client:
        assert client.nthreads()
    assert f"the connection to {cluster.address}: not closed within 30 s" in caplog.text


def test_another_command_on_this_machine_is_no_reason_to_warn(recwarn) -> None:
    with socket.socket() as another:
        with suppress(OSError):  # the port is taken already, which is as well
            another.bind(("", 8787))  # Dask's own
            another.listen()
        with open_client(SchedulerAddress.parse("local:1")) as client:
            assert client.nthreads()
    assert not [str(told.message) for told in recwarn if "8787" in str(told.message)]


def test_an_address_without_a_scheduler_and_weights_that_are_none_are_told(run, cluster) -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(ClusterError) as caught:
        run(["a"], "tcp://127.0.0.1:9")
    assert "no scheduler answers there" in str(caught.value) and "dask scheduler" in str(caught.value)
    cluster.start_worker()  # a test before may have retired all
    cluster.wait_for(1)
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        run(["a"], cluster.address, batch_size=0)
