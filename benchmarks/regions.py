"""Regions of a label map: what levels/ does by SciPy and NumPy against scikit-image's `measure`, as ratios in one run.

Run it by hand: ``python benchmarks/regions.py LABEL_MAP.nii.gz``, a map of the table's codes. Both sides are timed in
turn, in processor time, so that the ratio holds on a busy machine. ``--noise`` takes single voxels of random codes
instead: the map of a network that knows nothing, which must not make a scan slow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage import measure

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.volume import read_volume
from cps4_monai.levels.moments import measure as moments_of


def least_ms(work: Callable[[], object], repeats: int) -> float:
    """Least processor time of a call, in ms."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1000 * min(times)


def import_ms(statement: str) -> float:
    """Processor time that an import adds to one in which NumPy and SciPy's ndimage are loaded, in ms."""
    code = f"import time, scipy.ndimage; s = time.process_time(); {statement}; print(time.process_time() - s)"
    return 1000 * min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))


def region_table(ids: np.ndarray, spacing_mm: tuple[float, float, float]) -> list[tuple[float, ...]]:
    """Size, centroid and spread of each region by scikit-image: what ``levels/moments.py`` gives."""
    regions = measure.regionprops(ids, spacing=spacing_mm)
    return [(region.num_pixels, *region.centroid, *region.moments_central[0, 1:, 1:].ravel()) for region in regions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label_map")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    volume = read_volume(given.label_map, is_label=True, num_classes=MRSPINESEG.num_classes)
    grid = SagittalGrid.from_affine(volume.array.shape, volume.affine)
    labels = np.ascontiguousarray(grid.to_slices(volume.array)).astype(np.uint8)
    if given.noise:
        rng = np.random.default_rng(0)
        labels = np.where(rng.random(labels.shape) < 0.0005, rng.integers(1, 20, labels.shape), 0).astype(np.uint8)
    mask = labels > 0
    ids, count = (labels.astype(np.int32), MRSPINESEG.num_classes - 1) if not given.noise else ndimage.label(mask)
    spacing = grid.spacing_mm
    pairs = {
        "connected components": (lambda: ndimage.label(mask), lambda: measure.label(mask, connectivity=1)),
        "size, centroid, spread": (lambda: moments_of(ids, count, spacing), lambda: region_table(ids, spacing)),
    }
    print(f"{given.label_map}: {labels.shape}, {len(np.unique(ids)) - 1} regions")
    for name, (ours, theirs) in pairs.items():
        print(f"{name}: {least_ms(ours, given.repeats):.1f} ms, scikit-image {least_ms(theirs, given.repeats):.1f} ms")
    took = import_ms("from skimage.measure import label, regionprops")
    print(f"import of both: {took:.0f} ms")


if __name__ == "__main__":
    main()
