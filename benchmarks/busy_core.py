"""How much slower a computation is beside a process that keeps one core busy; alone and beside in turns, in one run.

    python benchmarks/busy_core.py                          # `cps4 segment` and training steps of the demo
    python benchmarks/busy_core.py --what segment --repeats 5
    python benchmarks/busy_core.py --environment OMP_WAIT_POLICY=ACTIVE --pin

Each measurement is a fresh process, so that it looks at the machine as a user's command does. The busy process is
started half a second before and ended after; with --pin it stays on the first core. The figure is the median over the
repeats of the ratio of two neighbouring runs. Another load on the machine makes "alone" not alone: it is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cps4_monai.threads import busy_cores, usable_cores

STEPS = """
import logging, sys, time
from pathlib import Path
from cps4_monai.threads import limit_threads, wait_passively
wait_passively()
from cps4_monai.demo import Demo
logging.disable(logging.WARNING)
threads = limit_threads()
settings = {"show_progress": False, "max_epochs": 1, "iterations_per_epoch": 30}
workflow = Demo(Path(sys.argv[1]), device="cpu", settings=settings).workflow("supervised", "training_stage2")
trainer = workflow.parser.get_parsed_content("train#trainer")
started = time.perf_counter()
trainer.run()
print("SECONDS", time.perf_counter() - started, "THREADS", threads)
"""


def busy(pin: bool) -> subprocess.Popen:
    """A process that does nothing but keep a core busy."""
    core = min(os.sched_getaffinity(0)) if pin else None
    stay = f"os.sched_setaffinity(0, {{{core}}})" if pin else "pass"
    process = subprocess.Popen([sys.executable, "-c", f"import os; {stay}\nwhile True: pass"])
    time.sleep(0.5)
    return process


def segment_once(folder: Path, environment: dict[str, str]) -> float:
    """Seconds of one `cps4 segment`, from the shell's prompt to the files."""
    command = [sys.executable, "-m", "cps4_monai.cli", "segment", str(folder / "scan.nii.gz"), "--overwrite"]
    started = time.perf_counter()
    subprocess.run([*command, "-o", str(folder / "out"), "-d", "cpu"], check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


def train_once(folder: Path, environment: dict[str, str]) -> float:
    """Seconds of thirty steps of the demo's stage 2, `supervised`, without imports and reading."""
    with tempfile.TemporaryDirectory(dir=folder) as run:
        for shared in ("phantom", "cache"):
            (folder / shared).mkdir(exist_ok=True)
            (Path(run) / shared).symlink_to(folder / shared)
        done = subprocess.run(
            [sys.executable, "-c", STEPS, run], check=True, capture_output=True, text=True, env=environment
        )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SECONDS")]
    return float(line.split()[1])


def prepare(folder: Path) -> None:
    """The phantom of the demo, of which one scan is segmented."""
    from cps4_monai.demo import Demo

    demo = Demo(folder, device="cpu")
    demo.make_phantom()
    (folder / "scan.nii.gz").symlink_to(sorted(demo.data_dir.glob("*_T2w.nii.gz"))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("segment", "demo"), nargs="+", default=["segment", "demo"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pin", action="store_true", help="keep the busy process on the first core")
    parser.add_argument("--environment", nargs="*", default=[], metavar="NAME=VALUE", help="for the measured process")
    parser.add_argument("--work", type=Path, help="folder to keep the phantom in, for a second run")
    options = parser.parse_args()
    environment = {**os.environ, **dict(pair.split("=", 1) for pair in options.environment)}
    load = busy_cores(1.0)
    print(
        f"{usable_cores():g} cores, {load:.2f} busy before the start; {' '.join(options.environment) or 'as shipped'}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        if not (folder / "scan.nii.gz").exists():
            prepare(folder)
        for name in options.what:
            once = segment_once if name == "segment" else train_once
            once(folder, environment)  # files into the memory, caches onto the disk
            alone, beside = [], []
            for _ in range(options.repeats):
                alone.append(once(folder, environment))
                other = busy(options.pin)
                try:
                    beside.append(once(folder, environment))
                finally:
                    other.kill()
                    other.wait()
            ratios = [b / a for a, b in zip(alone, beside, strict=True)]
            print(
                f"{name:8} alone {statistics.median(alone):6.2f} s, beside {statistics.median(beside):6.2f} s, "
                f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
