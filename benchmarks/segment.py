"""Where the time of `cps4 segment` goes: each part's share for one volume, from the shell's prompt to the files.

    python benchmarks/segment.py --weights spine.zip
    python benchmarks/segment.py --weights spine.zip --slices 200 --device cuda:0 --scans 8

Without --weights a random network of the bundle's default size is staged: as fast, but its labels are noise, so what
follows the network has more to do than with trained weights; --spacing is its pixel distance. Without --scan a phantom
of --slices x 640 x 512 is used. The row "start, tables" is what no scan's clock sees: Python, imports, weights, tables
and the page; it is told for a single scan, because with several the parts overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("read", "prepare", "network", "levels", "restore", "statistics", "picture", "write")
REST = ("prepare", "levels", "restore", "statistics", "picture")  # neither a network pass nor reading or writing


def make_scan(path: Path, slices: int, seed: int = 0) -> Path:
    """A phantom of slices x 640 x 512 voxels."""
    import nibabel as nib

    from cps4_monai.data.phantom import make_phantom

    phantom = make_phantom(seed, size=(640, 512), slices=slices)
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    return path


def random_bundle(folder: Path, spacing_mm: float) -> Path:
    """The bundle with random weights of the default network."""
    import dataclasses

    import torch

    from cps4_monai.bundle_root import find_bundle_root
    from cps4_monai.export import stage_bundle
    from cps4_monai.networks import ResUNet, describe
    from cps4_monai.plan import plan_of, write_plan

    torch.manual_seed(0)
    network = ResUNet()
    network.head.bias.data[0] = 1.0  # mostly background, as with trained weights
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, folder / "w.pt")
    released = plan_of(find_bundle_root() / "models" / "model.pt")
    write_plan(folder, dataclasses.replace(released, spacing_mm=spacing_mm, network=describe(network)))
    stage_bundle(find_bundle_root(), folder / "bundle", folder / "w.pt")
    return folder / "bundle"


def timed_help() -> float:
    """Seconds of `cps4 --help`, the best of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cps4_monai.cli", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="bundle folder or zip")
    parser.add_argument("--scan", type=Path, help="NIfTI file instead of a phantom")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm in plane of the random network")
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--scans", type=int, default=1, help="copies of the scan in one call")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "in").mkdir()
        first = folder / "in" / "scan_0.nii.gz"
        if arguments.scan:
            first.write_bytes(arguments.scan.read_bytes())
        else:
            make_scan(first, arguments.slices)
        for index in range(1, arguments.scans):
            (folder / "in" / f"scan_{index}.nii.gz").write_bytes(first.read_bytes())
        weights = arguments.weights or random_bundle(folder, arguments.spacing)
        command = [sys.executable, "-m", "cps4_monai.cli", "segment", str(folder / "in"), "-o", str(folder / "out")]
        command += ["-w", str(weights), "-d", arguments.device, "-j", str(arguments.jobs)]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        total = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        records = [json.loads(path.read_text("utf-8")) for path in sorted((folder / "out").glob("*_dseg.json"))]
    last = records[-1]["Seconds"]
    mean = {part: sum(r["Seconds"].get(part, 0.0) for r in records) / len(records) for part in PARTS}
    print(f"{os.cpu_count()} cores, {arguments.device}, {arguments.scans} scan(s), {arguments.slices} slices asked for")
    shown = dict(mean)
    if len(records) == 1:
        shown["start, tables"] = total - sum(mean.values())
    print(f"{'part':<14}{'seconds':>9}{'share':>8}")
    for part, seconds in shown.items():
        print(f"{part:<14}{seconds:>9.2f}{seconds / sum(shown.values()):>8.0%}")
    rest, rest_of_last = (sum(seconds[part] for part in REST) for seconds in (mean, last))
    print(f"rest (neither network nor files): {rest:.2f} s a scan, {rest_of_last:.2f} s for the last one")
    print(f"from the prompt to the files:     {total:.1f} s, {total / arguments.scans:.1f} s a scan")
    print(f"processor time:                   {used.ru_utime + used.ru_stime:.1f} s (what it takes on an idle machine)")
    print(f"peak memory:                      {used.ru_maxrss / 1024**2:.2f} GB")
    print(f"cps4 --help:                      {timed_help():.2f} s")


if __name__ == "__main__":
    main()
