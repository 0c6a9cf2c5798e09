"""What a cluster brings and costs: memory at ten thousand scans, time a scan with one worker and two, and with many.

    python benchmarks/scale.py many --scans 10000 --output OUT
    python benchmarks/scale.py browse --output OUT
    python benchmarks/scale.py work --workers 1 2 --scans 12
    python benchmarks/scale.py simulated --workers 1 2 4 8 16 32 64 --seconds 2

`many` segments copies of a tiny scan with a tiny network on two workers, the scheduler in a process of its own, and
prints the resident memory of command and scheduler as the run goes on; with --stand-in the workers link one result
instead, and all else is as it is. `browse` opens in Chromium what `many` left: the report, and `scans.csv` as text,
since browsers do not show files of that name themselves. `work` segments phantoms of 20 x 448 x 448 voxels with a
random network of the bundle's default size, one thread a worker, and prints scans a minute from the first scan that is
done to the last; --weights and --data take real ones. `simulated` hands out tasks that only wait, over the same
session: workers are threads of a few processes, as they compute nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EVERY = 500  # scans between two looks at the memory
THREADS = 16  # simulated workers in one process


def busy() -> str:
    """How busy the machine is with other things, in words."""
    from cps4_monai.threads import busy_cores, usable_cores

    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"load {load}; {busy_cores(1.0):.1f} of {usable_cores():.0f} cores busy"


@contextmanager
def processes(workers: int, threads: int = 1) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a scheduler with workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, quiet = f"tcp://127.0.0.1:{port}", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [*run, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet
    )
    command = [*run, "distributed.cli.dask_worker", address, "--nthreads", str(threads), "--no-dashboard"]
    started = [subprocess.Popen([*command, "--memory-limit", "0"], **quiet) for _ in range(workers)]
    try:
        yield address, psutil.Process(scheduler.pid)
    finally:
        for one in (*started, scheduler):
            one.terminate()
        for one in (*started, scheduler):
            one.wait()


def bundle_of(folder: Path, network: Any, spacing_mm: float, background: float) -> Path:
    """A bundle with random weights of a network, and so much more of its score for the background."""
    import torch

    from cps4_monai.anatomy import MRSPINESEG
    from cps4_monai.bundle_root import find_bundle_root
    from cps4_monai.export import stage_bundle
    from cps4_monai.networks import describe
    from cps4_monai.plan import Plan, write_plan

    torch.manual_seed(0)
    folder.mkdir()
    network.head.bias.data[0] = background
    torch.save(network.state_dict(), folder / "w.pt")
    write_plan(folder, Plan(MRSPINESEG, (), spacing_mm, network=describe(network)))
    stage_bundle(find_bundle_root(), folder / "bundle", folder / "w.pt")
    return folder / "bundle"


def phantoms(folder: Path, count: int, size: tuple[int, int], slices: int, different: int) -> Path:
    """A folder of scans, of which so many are different ones."""
    import nibabel as nib

    from cps4_monai.data.phantom import make_phantom

    folder.mkdir()
    for number in range(count):
        path = folder / f"scan{number:05d}.nii"
        if number < different:
            phantom = make_phantom(number, size=size, slices=slices)
            nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
        else:
            os.link(folder / f"scan{number % different:05d}.nii", path)
    return folder


def many(arguments: argparse.Namespace, folder: Path) -> None:
    """Memory of command and scheduler as a run of many scans goes on."""
    from cps4_monai import segment_scans
    from cps4_monai.inference import on_cluster
    from cps4_monai.networks import ResUNet

    weights = bundle_of(folder / "weights", ResUNet(features=(4, 8)), 8.0, background=0.2)  # nine structures a scan
    scans = phantoms(folder / "scans", arguments.scans, (64, 32), 2, 8)
    out = arguments.output or folder / "out"
    print(f"{busy()}\nscans done,seconds,MB of the command,MB of the scheduler,load", flush=True)
    started = time.perf_counter()
    if arguments.stand_in:
        segment_scans(scans / "scan00000.nii", folder / "ready", weights=weights, device="cpu", qc=False)
        on_cluster._segment = partial(linked, folder / "ready")
    with processes(2) as (address, scheduler):

        def tell(what: object) -> None:
            told = [round(one.memory_info().rss / 1e6) for one in (psutil.Process(), scheduler)]
            print(what, round(time.perf_counter() - started), *told, round(os.getloadavg()[0], 1), sep=",", flush=True)

        def look(outcome: Any, done: int, total: int) -> None:
            if done == 1 or done % EVERY == 0:
                tell(done)

        run = segment_scans(scans, out, weights=weights, device="cpu", scheduler=address, qc=False, on_scan=look)
        tell("report written")
    sizes = {name: (out / name).stat().st_size / 1e6 for name in ("scans.csv", "structures.csv", "report.html")}
    print(f"{len(run.segmented)} of {len(run.outcomes)} segmented; MB: {sizes}\n{busy()}")


def browse(arguments: argparse.Namespace, folder: Path) -> None:
    """Seconds that a browser takes for the report and the table of a run, and what it then shows."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, BROWSERS)))
    report, table = arguments.output / "report.html", folder / "scans.txt"
    shutil.copy(arguments.output / "scans.csv", table)
    name = sorted(arguments.output.glob("*_dseg.json"))[-1].name.removesuffix("_dseg.json")
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.set_default_timeout(0)

        def timed(what: str, act: Callable[[], Any]) -> None:
            started = time.perf_counter()
            act()
            rows = page.locator("#scans tbody tr:not([hidden])").count()
            print(f"{what}: {time.perf_counter() - started:.1f} s, {rows} rows in view", flush=True)

        timed("report", lambda: page.goto(report.resolve().as_uri()))
        print(page.inner_text(".pager span"))
        timed("next page", lambda: page.click("#scans .pager button:last-of-type"))
        timed("sorted by margin", lambda: page.click("#scans th:has-text('margin') button"))
        timed(f"filtered by {name}", lambda: page.fill("#scans input[type=search]", name))
        page.goto(table.as_uri())
        print(f"{len(page.inner_text('pre').splitlines())} lines of the table\n{busy()}")


def linked(ready: Path, tenant: Any, source: Any) -> Any:
    """In place of segmenting a scan: the files of one that is ready under this one's name, as a worker answers."""
    from cps4_monai.inference.outcome import ScanOutcome, StoredRecord
    from cps4_monai.inference.scan_files import ScanFiles

    there, here = ScanFiles.at(ready, "scan00000"), ScanFiles.at(tenant.work.output, source.name)
    os.link(there.sidecar, here.sidecar)
    os.link(there.label, here.label)
    return ScanOutcome(source.path, source.name, "done", "", here.label, None, StoredRecord(here.sidecar))


def work(arguments: argparse.Namespace, folder: Path) -> None:
    """Scans a minute with so many workers, from the first scan that is done to the last."""
    from cps4_monai import segment_scans
    from cps4_monai.networks import ResUNet

    os.environ["OMP_NUM_THREADS"] = "1"
    # Mostly background, as with trained weights.
    weights = arguments.weights or bundle_of(folder / "weights", ResUNet(), 1.0, background=1.0)
    scans = arguments.data or phantoms(folder / "scans", arguments.scans, (448, 448), 20, 4)
    print("workers,scans,seconds a scan,busy")
    for workers in arguments.workers:
        done_at: list[float] = []
        segment_scans(
            scans,
            folder / f"out{workers}",
            weights=weights,
            device="cpu",
            scheduler=f"local:{workers}",
            qc=False,
            on_scan=lambda *told, at=done_at: at.append(time.perf_counter()),
        )
        # The first answer of each worker starts the clock: workers start together, and end one after another.
        counted = done_at[workers - 1 :]
        seconds = (counted[-1] - counted[0]) / (len(counted) - 1)
        print(f"{workers},{len(done_at)},{seconds:.2f},{busy()}", flush=True)


def wait(tenant: Any, seconds: float) -> dict[str, float]:
    """A task that takes its time and nothing else."""
    time.sleep(seconds)
    return {"seconds": seconds}


def simulated(arguments: argparse.Namespace, folder: Path) -> None:
    """Time a task against the number of workers, where the tasks only wait; what the command and the scheduler do."""
    from cps4_monai.cluster.address import SchedulerAddress
    from cps4_monai.cluster.session import Session
    from cps4_monai.cluster.worker import RunInWorker

    print("workers,tasks,seconds a task,of what is ideal,ms of CPU a task: command,scheduler,busy")
    for workers in arguments.workers:
        groups, threads = max(1, workers // THREADS), min(workers, THREADS)
        with processes(groups, threads) as (address, scheduler):
            tenant = RunInWorker(Path.cwd(), own_workers=False)
            with Session(SchedulerAddress.parse(address), tenant, "simulated") as session:
                session.client.wait_for_workers(groups)
                time.sleep(2)  # the session looks again how many there are
                tasks = workers * arguments.rounds
                before = [sum(one.cpu_times()[:2]) for one in (psutil.Process(), scheduler)]
                started = time.perf_counter()
                answers = sum(1 for _ in session.complete(wait, [arguments.seconds] * tasks))
                seconds = time.perf_counter() - started
                after = [sum(one.cpu_times()[:2]) for one in (psutil.Process(), scheduler)]
        costs = [1000 * (end - begin) / answers for begin, end in zip(before, after, strict=True)]
        share = arguments.seconds * arguments.rounds / seconds
        print(
            f"{workers},{answers},{seconds / answers:.3f},{share:.2f},{costs[0]:.1f},{costs[1]:.1f},{busy()}",
            flush=True,
        )


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measured = {one.__name__: one for one in (many, browse, work, simulated)}
    parser.add_argument("what", choices=measured)
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="of a simulated task")
    parser.add_argument("--rounds", type=int, default=10, help="simulated tasks a worker")
    parser.add_argument("--stand-in", action="store_true", help="`many` without the segmenting: results are linked")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, help="folder of scans")
    parser.add_argument("--output", type=Path, help="of `many`, for `browse` afterwards")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measured[arguments.what](arguments, Path(temporary))


if __name__ == "__main__":
    main()
