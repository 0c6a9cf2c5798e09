"""Distances between the surfaces of prediction and label in millimetres, through MONAI, in a small crop per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.utils import get_edge_surface_distance
from scipy.ndimage import find_objects

from cps4_monai.metrics.annotated import within_annotated
from cps4_monai.metrics.overlap import check_unannotated


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances by class, (C,), float64; NaN where prediction or label lacks the class (nothing to measure)."""

    hd95_mm: np.ndarray
    assd_mm: np.ndarray


def _bounding_boxes(label_map: np.ndarray, num_classes: int) -> list[tuple[slice, ...] | None]:
    """Box per class 1 to C-1, None where the class is absent; one pass over the volume for all classes."""
    boxes: list[tuple[slice, ...] | None] = find_objects(label_map, max_label=num_classes - 1)
    return boxes


def surface_distances(
    pred: np.ndarray,
    label: np.ndarray,
    spacing_mm: Sequence[float],
    num_classes: int,
    unannotated: Sequence[int] = (),
) -> SurfaceDistances:
    """HD95 and average symmetric surface distance of every foreground class.

    Values are those of MONAI's ``compute_hausdorff_distance`` (percentile 95, the larger of both directions) and
    ``compute_average_surface_distance`` (symmetric) on the whole volume: each class is cropped to the box around
    prediction and label, which MONAI would do too, after copying all classes. Faces where the volume ends count as
    surface. Axes of one voxel are dropped: a single slice is measured in its plane, by its outline.

    Args:
        pred: label map (X, Y, Z), integers from 0 to C-1, any axis order.
        label: label map of the same shape; where it is 255, not annotated, neither map has a structure.
        spacing_mm: voxel size along each axis, millimetres.
        num_classes: C, background included.
        unannotated: codes of classes that are in view but never labeled; not measured.

    Raises:
        ValueError: shapes differ, or the spacing does not have one positive number per axis.
    """
    if pred.shape != label.shape:
        raise ValueError(f"pred has the shape {pred.shape} and label {label.shape}; bring both onto one grid first")
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (pred.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm is {list(spacing_mm)}; expected {pred.ndim} positive numbers")
    skipped = check_unannotated(unannotated, num_classes)
    kept_axes = [axis for axis, size in enumerate(pred.shape) if size > 1]
    kept_axes = kept_axes if len(kept_axes) > 1 else list(range(pred.ndim))
    kept_shape = [pred.shape[axis] for axis in kept_axes]
    pred, label = within_annotated(pred, label)
    pred, label, spacing = pred.reshape(kept_shape), label.reshape(kept_shape), spacing[kept_axes]
    hd95, assd = np.full(num_classes, np.nan), np.full(num_classes, np.nan)
    boxes = zip(_bounding_boxes(pred, num_classes), _bounding_boxes(label, num_classes), strict=True)
    for code, (in_pred, in_label) in enumerate(boxes, start=1):
        if in_pred is None or in_label is None or code in skipped:
            continue
        box = tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(in_pred, in_label, strict=True))
        y_pred, y = (torch.from_numpy(volume[box] == code) for volume in (pred, label))
        _, distances, _ = get_edge_surface_distance(y_pred, y, spacing=spacing.tolist(), symmetric=True)
        hd95[code] = max(float(torch.quantile(of_one, 0.95)) for of_one in distances)
        assd[code] = float(torch.cat(list(distances)).mean())
    return SurfaceDistances(hd95, assd)
