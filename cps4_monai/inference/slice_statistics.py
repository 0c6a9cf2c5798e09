"""Statistics of a scan's structures, measured only where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.levels import LevelThresholds, StructureStatistics, structure_statistics
from cps4_monai.levels.statistics import Confidence, View


def slice_statistics(
    slices: np.ndarray,
    grid: SagittalGrid,
    affine: np.ndarray,
    anatomy: Anatomy,
    *,
    confidence: Mapping[int, Confidence] | None = None,
    unannotated: Sequence[int] = (),
    view: View | None = None,
    thresholds: LevelThresholds | None = None,
) -> tuple[StructureStatistics, ...]:
    """:func:`cps4_monai.levels.structure_statistics` of a scan's slices, places in the scan's own voxels.

    Args:
        slices: (D, H0, W0) codes.
        grid: the scan's slices.
        affine: 4 x 4, the scan's voxels to RAS+ mm.
        anatomy: the structures.
        confidence: by code, where known.
        unannotated: codes that the training labels never show.
        view: part of the slices that was looked at; None for all.
        thresholds: of the level logic.
    """
    # All slices are kept: whether a structure reaches the outermost one is asked.
    occupied: np.ndarray = np.asarray(slices.any(axis=0))
    rows, columns = (np.flatnonzero(occupied.any(axis=axis)) for axis in (1, 0))
    top, left = (int(rows[0]), int(columns[0])) if len(rows) else (0, 0)
    end_row, end_column = (int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else (1, 1)
    h0, h1, w0, w1 = view or (0, slices.shape[1], 0, slices.shape[2])
    shift = np.eye(4)
    shift[1:3, 3] = top, left
    return structure_statistics(
        np.ascontiguousarray(slices[:, top:end_row, left:end_column]),
        grid.slices_affine(affine) @ shift,
        anatomy,
        confidence=confidence,
        unannotated=unannotated,
        scan_affine=affine,
        view=(h0 - top, h1 - top, w0 - left, w1 - left),
        thresholds=thresholds,
    )
