"""Prompt map (eq. 3): ours against a loop over scikit-image's Otsu, with the same upsampling and stacking.

Run it by hand: ``python benchmarks/prompt_map.py [--batch 4 --classes 20 --size 256 512 --grid 16 32]``. Both sides are
timed in turn within one run, so that the ratio holds on a busy machine. A GPU is timed too where there is one, kernel
by kernel and as one CUDA graph, which is what training does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu

from cps4_monai.prompt_map import PromptMapper
from cps4_monai.prompt_map.cuda_graph import CudaGraphs


def scikit_image_loop(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The reference: the same eq. 3, one Otsu threshold after the other, on the CPU. (B, 1, H, W) int64."""
    scores = F.interpolate(torch.sigmoid(logits), size=size, mode="bilinear", align_corners=False).numpy()
    thresholds = np.array([[threshold_otsu(one) for one in maps] for maps in scores], dtype=scores.dtype)
    held = np.where(scores > thresholds[..., None, None], scores, -np.inf)
    label = np.where(held.max(1) > -np.inf, held.argmax(1), 0)
    return torch.from_numpy(label[:, None])


def example_logits(batch: int, classes: int, grid: tuple[int, int], seed: int) -> torch.Tensor:
    """Smooth maps in the range that a trained model gives, (B, C, h, w)."""
    noise = torch.randn(batch, classes, *grid, generator=torch.Generator().manual_seed(seed))
    return 6 * F.avg_pool2d(noise, 3, stride=1, padding=1) - 2.5


def seconds(work: Callable[[], object], synchronise: bool) -> float:
    """Wall time of one call."""
    if synchronise:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if synchronise:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Times both sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"))
    parser.add_argument("--grid", type=int, nargs=2, default=(16, 32), metavar=("h", "w"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None, help="of torch on the CPU; default: torch's own")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    size = (args.size[0], args.size[1])
    mapper = PromptMapper()
    logits = example_logits(args.batch, args.classes, (args.grid[0], args.grid[1]), args.seed)
    sides: dict[str, Callable[[], torch.Tensor]] = {
        "scikit-image loop, CPU": lambda: scikit_image_loop(logits, size),
        "cps4_monai, CPU": lambda: mapper(logits, size),
    }
    if torch.cuda.is_available():
        on_gpu, name = logits.cuda(), torch.cuda.get_device_name()
        graph = torch.no_grad()(CudaGraphs(lambda maps: {"prompt_map": mapper(maps, size)}))
        sides[f"kernel by kernel, {name}"] = lambda: mapper(on_gpu, size)
        sides[f"as in training, {name}"] = lambda: graph(on_gpu)["prompt_map"]
    first = {name: work().cpu() for name, work in sides.items()}  # warms up, and is compared
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, work in sides.items():
            times[name].append(seconds(work, "CPU" not in name))
    reference, *_ = sides
    print(f"B {args.batch}, C {args.classes}, {size[0]} x {size[1]}, grid {args.grid[0]} x {args.grid[1]}, ", end="")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {args.repeats}")
    print(f"| {'side':42} | {'ms':>9} | {'times faster':>12} | {'pixels equal':>12} |")
    print(f"|{'-' * 44}|{'-' * 10}:|{'-' * 13}:|{'-' * 13}:|")
    for name in sides:
        ratio = statistics.median(a / b for a, b in zip(times[reference], times[name], strict=True))
        equal = (first[name] == first[reference]).double().mean().item()
        print(f"| {name:42} | {1e3 * statistics.median(times[name]):9.2f} | {ratio:12.2f} | {100 * equal:10.4f} % |")


if __name__ == "__main__":
    main()
