"""Whether a label map numbers its structures along the spine in the anatomy's direction."""

from __future__ import annotations

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.volume import Volume

_FEWEST = 3  # structures of the chain that say something about its direction


def runs_downwards(label: Volume, anatomy: Anatomy) -> bool:
    """Whether most structures that follow each other upwards in the anatomy lie below one another in the label map.

    So it is where 1 to 5 are L1 to L5, which the anatomy here calls S to L2.

    Args:
        label: with the geometry of its scan.
        anatomy: the classes; those without an order are passed over.
    """
    voxels = np.nonzero(label.array)
    codes = label.array[voxels]
    heights = sum(axis * index for axis, index in zip(label.affine[2, :3], voxels, strict=True)) + label.affine[2, 3]
    counts = np.bincount(codes, minlength=anatomy.num_classes)
    means = np.bincount(codes, weights=heights, minlength=anatomy.num_classes) / np.maximum(counts, 1)
    chain = [structure.code for structure in anatomy.along_spine() if counts[structure.code]]
    steps = np.diff(means[chain])
    return len(chain) >= _FEWEST and bool((steps < 0).sum() > len(steps) / 2)
