"""What a scan's labels show, and what that says of them: structures, traits and flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.inference.restore import RestoredLabels
from cps4_monai.inference.slice_statistics import slice_statistics
from cps4_monai.levels import Flag, LevelThresholds, StructureStatistics, level_flags
from cps4_monai.levels.flag_calibration import FlagCalibration
from cps4_monai.levels.traits import scan_traits


@dataclass(frozen=True)
class Measured:
    """What restored labels show.

    Attributes:
        structures: state, volume, centroid, height and confidence of each structure.
        flags: alarms and notes.
        traits: by which `unusual_contrast` is raised; None for the plain argmax.
    """

    structures: tuple[StructureStatistics, ...]
    flags: tuple[Flag, ...]
    traits: Mapping[str, float] | None


def measure(
    restored: RestoredLabels,
    argmax: np.ndarray,
    image: np.ndarray,
    grid: SagittalGrid,
    affine: np.ndarray,
    anatomy: Anatomy,
    unannotated: Sequence[int],
    thresholds: LevelThresholds,
    calibration: FlagCalibration,
) -> Measured:
    """Measures the labels of a scan.

    Args:
        restored: the labels on the scan's pixels, and how their levels were decoded.
        argmax: (D, H, W) codes before the levels were decoded, on the network's grid.
        image: (D, H, W), the network's input.
        grid: the scan's slices.
        affine: 4 x 4, the scan's voxels to RAS+ mm.
        anatomy: the classes.
        unannotated: codes that the training labels never showed.
        thresholds: of the level logic.
        calibration: of the flags.
    """
    structures = slice_statistics(
        restored.slices,
        grid,
        affine,
        anatomy,
        confidence=restored.confidence,
        unannotated=unannotated,
        view=restored.view,
        thresholds=thresholds,
    )
    margin, traits = None, None
    if restored.levels is not None:
        margin = restored.levels.margin
        traits = scan_traits(image, argmax, restored.levels.labels, restored.confidence, structures, anatomy)
    flags = level_flags(structures, anatomy, margin, unannotated, thresholds, calibration, traits)
    return Measured(structures, flags, traits)
