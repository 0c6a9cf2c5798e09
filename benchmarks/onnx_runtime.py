"""The bundle's network in ONNX Runtime against torch on the CPU: time ratio, and the share of voxels labeled alike.

    python benchmarks/onnx_runtime.py --weights spine.zip
    python benchmarks/onnx_runtime.py --scans SPIDER/volumes/sub-0*_T2w.nii.gz --threads 1

Both run the slices of each scan in the batches of `cps4 segment`, in turns within one run. On a busy machine look at
the processor time, which hardly depends on what else runs. Without --weights the bundle's own are used; --random
stages a random network of its size, whose margins between classes are smaller than a trained network's, which makes
agreement harder. Without --scans phantoms are segmented.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from cps4_monai.inference.network_pass import run_network
from cps4_monai.inference.prepared import PreparedScan
from cps4_monai.inference.segment import Segmenter


def random_bundle(folder: Path, scan: Path) -> Path:
    """The bundle with random weights of the default network, balanced so that many classes win somewhere."""
    from cps4_monai.bundle_root import find_bundle_root
    from cps4_monai.export import stage_bundle
    from cps4_monai.networks import ResUNet

    torch.manual_seed(0)
    network = ResUNet()
    torch.save(network.state_dict(), folder / "w.pt")
    stage_bundle(find_bundle_root(), folder / "first", folder / "w.pt", {})
    slices = Segmenter(folder / "first", device="cpu").prepare(scan, keep_grey=False).slices[:4, None]
    with torch.no_grad():
        network.train()(slices)  # statistics of BatchNorm
        network.head.bias -= network.eval()(slices).mean(dim=(0, 2, 3))
    torch.save(network.state_dict(), folder / "w.pt")
    stage_bundle(find_bundle_root(), folder / "bundle", folder / "w.pt", {})
    return folder / "bundle"


def phantoms(folder: Path, count: int, slices: int) -> list[Path]:
    """Phantoms of slices x 640 x 512 voxels."""
    import nibabel as nib

    from cps4_monai.data.phantom import make_phantom

    paths = []
    for seed in range(count):
        phantom = make_phantom(seed, size=(640, 512), slices=slices)
        paths.append(folder / f"phantom_{seed}.nii.gz")
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), paths[-1])
    return paths


class Side:
    """One runtime, and its seconds for each scan and round: of the clock, and of all its threads on the processor."""

    def __init__(self, weights: Path | None, runtime: str, batch_size: int) -> None:
        self.segmenter = Segmenter(weights, device="cpu", runtime=runtime, batch_size=batch_size)
        started = time.perf_counter()
        self.network = self.segmenter.network
        self.loading = time.perf_counter() - started
        self.seconds: list[float] = []
        self.processor: list[float] = []

    def run(self, scan: PreparedScan) -> np.ndarray:
        bundle = self.segmenter.bundle
        started, used = time.perf_counter(), time.process_time()
        scores = run_network(
            self.network, scan.slices, batch_size=self.segmenter.batch_size, unannotated=bundle.unannotated
        )
        self.seconds.append(time.perf_counter() - started)
        self.processor.append(time.process_time() - used)
        return scores.labels


def main() -> None:
    """Times both sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="bundle folder or zip")
    parser.add_argument("--random", action="store_true", help="random weights of the default network")
    parser.add_argument("--scans", type=Path, nargs="+", help="NIfTI files instead of phantoms")
    parser.add_argument("--phantoms", type=int, default=2)
    parser.add_argument("--slices", type=int, default=20, help="of a phantom")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = options.scans or phantoms(folder, options.phantoms, options.slices)
        weights = random_bundle(folder, paths[0]) if options.random else options.weights
        sides = {name: Side(weights, name, options.batch_size) for name in ("torch", "onnx")}
        scans = [sides["torch"].segmenter.prepare(path, keep_grey=False) for path in paths]
        report(sides, scans, options.rounds)


def report(sides: dict[str, Side], scans: list[PreparedScan], rounds: int) -> None:
    """Runs all rounds, the first of them uncounted, and prints what came of them."""
    equal = total = foreground = 0
    for scan in scans:  # warms up, and is compared
        first, second = (side.run(scan) for side in sides.values())
        equal, total = equal + int((first == second).sum()), total + first.size
        foreground += int(((first > 0) | (second > 0)).sum())
    for side in sides.values():
        side.seconds.clear()
        side.processor.clear()
    for _ in range(rounds):
        for scan in scans:
            for side in sides.values():
                side.run(scan)
    sizes = ", ".join(" x ".join(str(n) for n in scan.slices.shape) for scan in scans)
    print(f"{len(scans)} scans of {sizes}; torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, {rounds} rounds")
    print(f"| {'runtime':8} | {'loading':>8} | {'seconds a scan':>14} | {'processor':>9} |")
    print(f"|{'-' * 10}|{'-' * 9}:|{'-' * 15}:|{'-' * 10}:|")
    for name, side in sides.items():
        seconds, processor = statistics.median(side.seconds), statistics.median(side.processor)
        print(f"| {name:8} | {side.loading:6.1f} s | {seconds:14.2f} | {processor:9.2f} |")
    for what in ("seconds", "processor"):
        pairs = zip(getattr(sides["torch"], what), getattr(sides["onnx"], what), strict=True)
        ratios = sorted(a / b for a, b in pairs)
        print(f"times as fast by {what}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    share = 100 * equal / total
    print(f"labels alike: {share:.5f} % of {total} voxels ({total - equal} differ; {foreground} are foreground)")


if __name__ == "__main__":
    main()
