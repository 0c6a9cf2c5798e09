"""Share of time that a training step waits for data, slices per second, and peak memory; prints a table.

    python benchmarks/data_wait.py --dataset-dir FOLDER [--workers 0 1 2] [--steps 40] [--step-seconds 0.5]

A busy loop of matrix products of the given length stands for the step; run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from cps4_monai.data.batches import SemiSupervisedLoader
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datasets import SliceDataset
from cps4_monai.data.entries import Entry
from cps4_monai.data.in_plane import InPlane
from cps4_monai.transforms.augmentation import labeled_augmentation, unlabeled_augmentation


def busy(seconds: float) -> None:
    """Keeps the processor at work for about so long."""
    matrix, end = torch.rand(256, 256), time.perf_counter() + seconds
    while time.perf_counter() < end:
        matrix = (matrix @ matrix).clamp_(0, 1)


def measure(loader: SemiSupervisedLoader, steps: int, step_seconds: float) -> tuple[float, float]:
    """Share of the time spent waiting after the first batch, and slices per second of the loader alone."""
    batches = iter(loader)
    next(batches)
    waited, started = 0.0, time.perf_counter()
    for _ in range(steps):
        busy(step_seconds)
        before = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - before
    share = waited / (time.perf_counter() - started)
    loader.set_epoch(1)
    batches, before, slices = iter(loader), time.perf_counter(), 0
    for _ in range(steps):
        slices += sum(part["image"].shape[0] for part in next(batches).values())
    return share, slices / (time.perf_counter() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-dir", type=Path, required=True, help="folder with volumes/*_T2w.nii.gz and *_dseg")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step-seconds", type=float, default=0.5)
    parser.add_argument("--size", type=int, nargs=2, default=[160, 128])
    parser.add_argument("--spacing-mm", type=float, default=1.9)
    args = parser.parse_args()
    labels = sorted((args.dataset_dir / "volumes").glob("*_dseg.nii.gz"))
    entries = [Entry(path.with_name(path.name.replace("_dseg", "_T2w")), path, path.name) for path in labels]
    with tempfile.TemporaryDirectory() as folder:
        before = time.perf_counter()
        cache = SliceCache(folder, InPlane(tuple(args.size), args.spacing_mm))
        labeled = SliceDataset(entries[:4], cache, labeled_augmentation())
        unlabeled = SliceDataset(entries, cache, unlabeled_augmentation(), labeled=False)
        print(f"first pass: {time.perf_counter() - before:.1f} s for {len(entries)} volumes, {len(unlabeled)} slices")
        print("| workers | waiting | slices/s | peak memory of this process |\n|---|---|---|---|")
        for workers in args.workers:
            loader = SemiSupervisedLoader(labeled, unlabeled, num_workers=workers, iterations_per_epoch=args.steps + 1)
            share, rate = measure(loader, args.steps, args.step_seconds)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"| {workers} | {100 * share:.1f} % | {rate:.0f} | {peak:.0f} MB |")


if __name__ == "__main__":
    main()
