"""From scores on the network's grid to one label volume on the scan's own pixels, levels decoded on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.resampling import field_of_view
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.scan_labels import ScanScores, labels_on_scan
from cps4_monai.data.scan_slices import network_spacing_mm
from cps4_monai.levels import LevelResult, LevelThresholds, decode_levels, label_confidence
from cps4_monai.levels.statistics import Confidence, View


@dataclass(frozen=True)
class RestoredLabels:
    """A scan's labels.

    Attributes:
        slices: (D, H0, W0) uint8 on the scan's pixels.
        levels: how the levels were decoded; None for the plain argmax.
        confidence: of each label, by code.
        view: (first H, end H, first W, end W) of the scan's slices that the network saw; None for all.
        seconds: time taken by each part.
    """

    slices: np.ndarray
    levels: LevelResult | None
    confidence: dict[int, Confidence]
    view: View | None
    seconds: dict[str, float]


def restore_labels(
    scores: ScanScores,
    in_plane: InPlane,
    grid: SagittalGrid,
    anatomy: Anatomy,
    unannotated: Sequence[int] = (),
    *,
    raw: bool = False,
    thresholds: LevelThresholds | None = None,
) -> RestoredLabels:
    """Decodes the levels on the network's grid and brings one label volume back to the scan's.

    Args:
        scores: what the network said.
        in_plane: the network's slice geometry.
        grid: the scan's slices.
        anatomy: the classes.
        unannotated: codes that the training labels never showed.
        raw: leave the argmax as it is.
        thresholds: of the level logic.
    """
    started = time.perf_counter()
    height, width = in_plane.axis_maps(grid.slices_shape[1:], grid.spacing_mm[1:])
    result = None
    if raw:
        labels, confidence = scores.labels, label_confidence(scores.labels, scores.slices(), anatomy, from_logits=True)
    else:
        result = decode_levels(
            scores.labels,
            scores.slices(),
            network_spacing_mm(grid, in_plane),
            anatomy,
            from_logits=True,
            unannotated=unannotated,
            view=field_of_view(height, width),
            thresholds=thresholds,
        )
        labels, confidence = result.labels, result.confidence
    decoded = time.perf_counter()
    slices = labels_on_scan(scores, labels, grid, in_plane)
    seconds = {"levels": decoded - started, "restore": time.perf_counter() - decoded}
    view = field_of_view(height.inverse(), width.inverse())
    whole = view is None or view == (0, slices.shape[1], 0, slices.shape[2])
    return RestoredLabels(slices, result, confidence, None if whole else view, seconds)
