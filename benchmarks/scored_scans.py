"""Labeled scans segmented as `cps4 segment` does it, whole or changed, and scored; for the benchmarks beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

WRONG = 2  # labeled structures missed or on another level from which on the numbering of a scan is wrong
WAYS = ("decoded", "argmax")


@dataclass(frozen=True)
class LabeledScan:
    """A scan with its truth on its own pixels.

    Attributes:
        data: name of its data set.
        subject: its name.
        image: (D, H, W) float32 in [0, 1].
        label: (D, H, W) uint8, 255 where nobody annotated.
        spacing_mm: along D, H, W.
        skipped: codes that are in view and not labeled.
    """

    data: str
    subject: str
    image: np.ndarray
    label: np.ndarray
    spacing_mm: tuple[float, float, float]
    skipped: tuple[int, ...]

    def changed(self, image: np.ndarray, label: np.ndarray | None = None) -> LabeledScan:
        """The same scan with another image and, where that moved, label."""
        return replace(self, image=image, label=self.label if label is None else label)


def labeled_scans(datalist: Path, section: str, num_classes: int, limit: int | None = None) -> Iterator[LabeledScan]:
    """Labeled scans of a section of a datalist: "labeled" (training entries with labels) or "validation"; never "test".

    Raises:
        SystemExit: another section.
    """
    from cps4_monai.data.datalist import load_datalist
    from cps4_monai.data.normalise import percentile_window, scale_to_window
    from cps4_monai.data.sagittal import SagittalGrid
    from cps4_monai.data.volume import read_volume

    if section not in ("labeled", "validation"):
        raise SystemExit(f"section {section!r}; expected labeled or validation. Fix: test subjects choose nothing")
    data = load_datalist(datalist, dataset_dir=datalist.parent)
    for entry in getattr(data, section)[:limit]:
        scan = read_volume(entry.image)
        truth = read_volume(entry.label, is_label=True, num_classes=num_classes, partly_annotated=True)
        grid = SagittalGrid.from_affine(scan.shape, scan.affine)
        image, label = (
            np.ascontiguousarray(grid.to_slices(a))
            for a in (scale_to_window(scan.array, percentile_window(scan.array)), truth.array)
        )
        yield LabeledScan(datalist.parent.name, entry.subject, image, label, grid.spacing_mm, tuple(data.unannotated))


def segment_scan(
    segmenter: Any, scan: LabeledScan, ways: Sequence[str] = WAYS
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Way, :class:`Segmentation` and its labels (D, H, W); the network runs once."""
    depth, height, width = scan.spacing_mm
    # To the axes left-right, anterior to posterior, superior to inferior.
    affine = np.diag([depth, -width, -height, 1.0])
    prepared = segmenter.prepare(nib.Nifti1Image(scan.image.transpose(0, 2, 1), affine), keep_grey=False)
    scores = segmenter.scores(prepared)
    for way in ways:
        segmenter.raw = way == "argmax"
        result = segmenter.finish(prepared, scores)
        yield way, result, np.ascontiguousarray(result.labels.transpose(0, 2, 1))


def score(segmenter: Any, scan: LabeledScan, pred: np.ndarray) -> dict[str, Any]:
    """Dice (b) over all labeled structures and over those of each kind, Dice by code, and how levels came out.

    ``shifted``: labeled structures on another level; ``missed``: those without any voxel of a level of their kind;
    ``right``: fewer than ``WRONG`` of both together.
    """
    import torch

    from cps4_monai.metrics.conventions import subject_scores
    from cps4_monai.metrics.identification import identify_levels

    anatomy = segmenter.bundle.anatomy
    skipped = tuple({*segmenter.bundle.unannotated, *scan.skipped})
    dice = subject_scores(torch.from_numpy(pred), torch.from_numpy(scan.label), anatomy.num_classes, skipped)
    levels = identify_levels(pred, scan.label, scan.spacing_mm, anatomy, skipped)
    shown = np.flatnonzero(np.bincount(scan.label.reshape(-1), minlength=anatomy.num_classes)[: anatomy.num_classes])
    shown = shown[(shown > 0) & ~np.isin(shown, skipped)]
    offset = levels.level_offset[shown]
    shifted, missed = int((np.abs(np.nan_to_num(offset)) > 0).sum()), int(np.isnan(offset).sum())
    kinds = {kind: [c for c in shown if anatomy[int(c)].kind == kind] for kind in ("vertebra", "disc")}
    return {
        "dice_b": dice.dice_by["b"],
        **{f"dice_{kind}": float(dice.dice[codes].mean()) for kind, codes in kinds.items()},
        "dice": {int(code): float(dice.dice[code]) for code in shown},
        "labeled": len(shown),
        "shifted": shifted,
        "missed": missed,
        "right": shifted + missed < WRONG,
    }
