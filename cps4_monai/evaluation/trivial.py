"""Predictions of the trivial baseline, written like those of a network, so that the same scoring applies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datalist import Entry
from cps4_monai.metrics.baseline import at_depth, mean_label_map
from cps4_monai.transforms.label_saving import SaveLabelsd


def write_mean_label_maps(
    labeled: Sequence[Entry], scans: Sequence[Entry], cache: SliceCache, num_classes: int, output_dir: str | Path
) -> Path:
    """The mean label map of the labeled subjects as the prediction for every scan, on each scan's own grid.

    Args:
        labeled: subjects whose labels are averaged on the slice grid.
        scans: scans to predict; their labels are not read.
        cache: gives the slices and their geometry.
        num_classes: C, background included.
        output_dir: where ``<stem>_dseg.nii.gz`` goes.

    Returns:
        The output folder.
    """
    folder = Path(output_dir)
    save = SaveLabelsd(keys="pred", output_dir=folder, overwrite=True)
    labels = [torch.from_numpy(np.array(cache.label(entry.label, entry.image).array)) for entry in labeled]
    vote = mean_label_map(labels, num_classes)
    for entry in scans:
        image = cache.image(entry.image)
        grid = image.grid
        slices = at_depth(vote, grid.slices_shape[0])
        restored = cache.in_plane.restore_label(slices, grid.slices_shape[1:], grid.spacing_mm[1:])
        volume = torch.from_numpy(np.ascontiguousarray(grid.from_slices(restored.numpy())))
        meta = {"filename_or_obj": str(entry.image)}
        save({"pred": MetaTensor(volume[None], affine=torch.from_numpy(image.affine), meta=meta)})
    return folder
