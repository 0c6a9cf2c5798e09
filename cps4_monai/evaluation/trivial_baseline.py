"""The mean label map of the labeled subjects, written as the prediction of every scan: what any method must beat."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from cps4_monai.data.datalist import Entry
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.scan_slices import label_to_slices
from cps4_monai.data.volume import read_volume, write_label_volume
from cps4_monai.metrics.baseline import at_depth, mean_label_map
from cps4_monai.scan_names import mirrored_folder, stem_of


def write_mean_label_maps(
    labeled: Sequence[Entry], targets: Sequence[Entry], in_plane: InPlane, output: str | Path, num_classes: int
) -> list[Path]:
    """Majority vote over the labeled subjects on the network's slice grid, put back on each target's own grid.

    Args:
        labeled: entries whose labels vote; those without a label are passed over.
        targets: entries to predict; of their scans only the header's geometry matters.
        in_plane: the network's grid; needs a size, so that all subjects share it.
        output: folder; ``<scan>_dseg.nii.gz`` each, in the subfolders of the scans.
        num_classes: C, background included.

    Returns:
        Paths of the predictions, in the order of the targets.

    Raises:
        ValueError: no labeled entry, or a grid without a size.
    """
    if in_plane.size is None:
        raise ValueError("in_plane.size is None; the mean label map needs one size for all subjects, e.g. (256, 128)")
    maps = []
    for entry in labeled:
        if entry.label is None:
            continue
        label = read_volume(entry.label, is_label=True, num_classes=num_classes, partly_annotated=True)
        grid = SagittalGrid.from_affine(label.shape, label.affine)
        maps.append(label_to_slices(label.array, grid, in_plane))
    mean = mean_label_map(maps, num_classes)
    root = os.path.commonpath([entry.image.absolute().parent for entry in targets])
    return [_write(mean, entry, in_plane, Path(output) / mirrored_folder(entry.image, root)) for entry in targets]


def _write(mean: torch.Tensor, entry: Entry, in_plane: InPlane, output: Path) -> Path:
    scan = read_volume(entry.image)
    grid = SagittalGrid.from_affine(scan.shape, scan.affine)
    depth, height, width = grid.slices_shape
    slices = in_plane.restore_label(at_depth(mean, depth), (height, width), grid.spacing_mm[1:])
    return write_label_volume(output / f"{stem_of(entry.image)}_dseg.nii.gz", grid.from_slices(slices.numpy()), scan)
