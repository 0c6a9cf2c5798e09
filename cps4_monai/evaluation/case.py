"""One prediction against its label, in millimetres and on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.label_ownership import assumed_spacing_of
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.volume import Volume, check_pair, read_volume
from cps4_monai.metrics.conventions import subject_scores
from cps4_monai.metrics.identification import identify_levels
from cps4_monai.metrics.surface import surface_distances
from cps4_monai.metrics.tables import case_row, structure_rows
from cps4_monai.scan_names import patient_of, subject_of


@dataclass(frozen=True)
class CaseResult:
    """Tables of one case.

    Attributes:
        structures: a row per annotated foreground structure (``metrics.tables.STRUCTURE_COLUMNS``).
        case: one row (``metrics.tables.CASE_COLUMNS``).
    """

    structures: list[dict[str, Any]]
    case: dict[str, Any]


def evaluate_arrays(
    pred: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray,
    spacing_mm: Sequence[float],
    anatomy: Anatomy,
    unannotated: Sequence[int] = (),
    *,
    case: str,
    subject: str,
    warnings: Sequence[str] = (),
) -> CaseResult:
    """Scores of two label maps in memory.

    Args:
        pred: (X, Y, Z), codes of the anatomy, the scan's own axis order.
        label: the same shape; 255 where nobody annotated, which enters no score.
        affine: 4 x 4, voxel indices to RAS+ mm; tells which axis runs over the sagittal slices.
        spacing_mm: voxel size along X, Y, Z.
        anatomy: the classes.
        unannotated: codes of classes that are in view but never labeled.
        case: name of the scan.
        subject: the patient.
        warnings: kept with the case's row.

    Raises:
        TypeError, ValueError: shapes differ, or a value is no class.
    """
    if pred.shape != label.shape:
        raise ValueError(f"pred has the shape {pred.shape} and label {label.shape}; bring both onto one grid first")
    grid = SagittalGrid.from_affine(label.shape, affine)
    slices = [torch.from_numpy(np.ascontiguousarray(grid.to_slices(volume))) for volume in (pred, label)]
    scores = subject_scores(slices[0], slices[1], anatomy.num_classes, unannotated)
    distances = surface_distances(pred, label, spacing_mm, anatomy.num_classes, unannotated)
    identification = identify_levels(pred, label, spacing_mm, anatomy, unannotated)
    rows = structure_rows(case, subject, anatomy, scores, distances, identification, unannotated)
    return CaseResult(rows, case_row(rows, scores, anatomy, warnings))


def read_pair(pred_path: str | Path, label_path: str | Path, num_classes: int) -> tuple[Volume, Volume]:
    """Prediction and label, checked to lie on one grid.

    Where a header has no geometry, the spacing is the one that the prediction was made with (`--assume-spacing`).

    Raises:
        InvalidVolumeError (a ValueError): see :func:`evaluate_case`.
    """
    spacing = assumed_spacing_of(pred_path)
    pred = read_volume(pred_path, is_label=True, num_classes=num_classes, assume_spacing=spacing)
    label = read_volume(
        label_path, is_label=True, num_classes=num_classes, assume_spacing=spacing, partly_annotated=True
    )
    check_pair(label, pred)
    return pred, label


def evaluate_case(
    pred_path: str | Path,
    label_path: str | Path,
    anatomy: Anatomy,
    unannotated: Sequence[int] = (),
    *,
    case: str | None = None,
    subject: str | None = None,
) -> CaseResult:
    """Scores of two label-map files.

    Args:
        pred_path: prediction, NIfTI.
        label_path: label, NIfTI, on the same grid.
        anatomy: the classes.
        unannotated: codes of classes that are in view but never labeled.
        case: name of the scan; default: from the label's file name.
        subject: the patient; default: from the label's file name.

    Raises:
        InvalidVolumeError (a ValueError): a file cannot be read, holds other values than the anatomy's codes, or the
            two grids differ in shape or affine.
    """
    label_path, pred_path = Path(label_path), Path(pred_path)
    pred, label = read_pair(pred_path, label_path, anatomy.num_classes)
    return evaluate_arrays(
        pred.array,
        label.array,
        label.affine,
        label.spacing_mm,
        anatomy,
        unannotated,
        case=case or subject_of(label_path),
        subject=subject or patient_of(subject_of(label_path)),
        warnings=label.warnings,
    )
