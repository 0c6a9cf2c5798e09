"""Time and memory of a training step of each method of stage 2 that needs no stage 1, over a step of Mean Teacher.

Same network, batch and device. On a CPU the processor time of the step counts, which other processes do not change; on
a GPU the time on the clock. `--strict` makes torch refuse each wait for the device within a step (GPU only).

    python benchmarks/method_steps.py --device cpu --size 160 80 --features 16 32 64 128 256 --steps 3
    python benchmarks/method_steps.py --device cuda --amp --steps 30 --strict
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from cps4_monai.methods import BCP, UCMT, GraphCL, MCNet, MeanTeacher, SSNet, Supervised, UniMatchV2
from cps4_monai.networks import ClassMemory, GraphBranch, MaskedFeatures, MutualDecoders, ResUNet, StudentPair, place
from cps4_monai.precision import Precision

METHODS: dict[str, tuple[type, Callable[[nn.Module], nn.Module]]] = {
    "supervised": (Supervised, lambda network: network),
    "mean_teacher": (MeanTeacher, lambda network: network),
    "bcp": (BCP, lambda network: network),
    "graphcl": (GraphCL, GraphBranch),
    "unimatch_v2": (UniMatchV2, MaskedFeatures),
    "mc_net": (MCNet, MutualDecoders),
    "ss_net": (SSNet, ClassMemory),
    "ucmt": (UCMT, StudentPair),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 256), metavar=("H", "W"))
    parser.add_argument("--features", type=int, nargs="+", default=(24, 48, 96, 192, 384))
    parser.add_argument("--batch", type=int, default=4, help="labeled slices, and as many unlabeled ones")
    parser.add_argument("--steps", type=int, default=10, help="measured batches of each method")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--strict", action="store_true", help="a wait for the device is an error (GPU)")
    return parser.parse_args()


def batch_of(options: argparse.Namespace) -> dict:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, options.batch, 1, *options.size, generator=generator).to(options.device)
    label = torch.randint(0, 20, (options.batch, 1, *options.size), generator=generator, dtype=torch.uint8)
    unlabeled = {"image": image[1], "image_strong": image[2], "image_strong_2": image[3]}
    return {"labeled": {"image": image[0], "label": label.to(options.device)}, "unlabeled": unlabeled}


def measure(name: str, options: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of each measured batch, and the peak of GPU memory in GiB."""
    torch.manual_seed(0)
    kind, wrap = METHODS[name]
    network = wrap(place(ResUNet(1, 20, options.features), options.device))
    method = kind(network, torch.optim.Adam(network.parameters(), lr=1e-4, fused=True))
    method.total_updates, method.updates = 10_000, 6_000  # in the second phase of those that have two
    precision, batch = Precision(options.device, options.amp), batch_of(options)
    cuda = torch.device(options.device).type == "cuda"
    clock, seconds = time.perf_counter if cuda else time.process_time, []
    for count in range(options.warm_up + options.steps):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.set_sync_debug_mode("error" if options.strict and count >= options.warm_up else "default")
        start = clock()
        train_on(batch, method, precision)
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return seconds[options.warm_up :], torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")


def train_on(batch: dict, method, precision: Precision) -> None:
    """All optimiser steps of a batch, as the trainer makes them; without a scaler."""
    method.train()
    steps = method.steps(batch)
    for _ in range(method.steps_per_batch):
        method.optimizers["student"].zero_grad(set_to_none=True)
        with precision.autocast():
            loss = method.losses(next(steps), batch)["loss"]
        loss.backward()
        method.optimizers["student"].step()
        method.after_step()


def main() -> None:
    options = arguments()
    cuda = torch.device(options.device).type == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads, processor time"
    print(f"{where}; torch {torch.__version__}; amp {options.amp}")
    print(f"{options.batch} + {options.batch} slices of {tuple(options.size)}; features {tuple(options.features)}")
    measured, waits = {}, []
    for name in METHODS:
        try:
            measured[name] = measure(name, options)
        except RuntimeError as error:  # in strict mode a step that waits for the device
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
            waits.append(f"{name}: {error}")
    yardstick = statistics.median(measured["mean_teacher"][0]) if "mean_teacher" in measured else float("nan")
    print(f"{'method':14} {'ms/batch':>10} {'of mean_teacher':>16} {'peak GiB':>10}")
    for name, (seconds, peak) in measured.items():
        median = statistics.median(seconds)
        print(f"{name:14} {1000 * median:10.1f} {median / yardstick:16.2f} {peak:10.2f}")
    if waits:
        raise SystemExit("not measured: " + "; ".join(waits))


if __name__ == "__main__":
    main()
