"""Were the levels numbered right: identification rate and level offsets, apart from how well outlines fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.levels.moments import measure
from cps4_monai.metrics.annotated import within_annotated
from cps4_monai.metrics.overlap import check_unannotated

WITHIN_MM = 20.0


@dataclass(frozen=True)
class Identification:
    """Values by code; only classes of the label have any.

    Attributes:
        distance_mm: (C,) float64, from the label's centroid to that of the prediction of the same code; NaN where the
            label or the prediction has none.
        identified: (C,) bool, whether that is within ``within_mm``. The identification rate of VerSe (Sekuboyina et
            al., 2021) asks besides that no other predicted centroid lies nearer: see ``level_offset``.
        level_offset: (C,) float64, the code that most of the labeled structure's voxels were given among those of its
            kind, as places along the chain of its kind: 0 right, 1 one level higher, -1 one lower; NaN where
            the label has none, where no voxel of it was given any level of its kind, and where it has no level.
    """

    distance_mm: np.ndarray
    identified: np.ndarray
    level_offset: np.ndarray


def identify_levels(
    pred: np.ndarray,
    label: np.ndarray,
    spacing_mm: Sequence[float],
    anatomy: Anatomy,
    unannotated: Sequence[int] = (),
    within_mm: float = WITHIN_MM,
) -> Identification:
    """Compare the numbering of two label maps on one grid.

    Args:
        pred: (X, Y, Z) codes.
        label: the same shape; where it is 255, not annotated, neither map has a structure.
        spacing_mm: voxel size along X, Y, Z.
        anatomy: the classes; those with an order along the spine have levels.
        unannotated: codes that are in view but never labeled; they enter nothing.
        within_mm: largest distance of the centroids of an identified structure.

    Raises:
        TypeError, ValueError: shapes differ, or a value is no class.
    """
    count, skipped = anatomy.num_classes, check_unannotated(unannotated, anatomy.num_classes)
    if pred.shape != label.shape:
        raise ValueError(f"pred has the shape {pred.shape} and label {label.shape}; bring both onto one grid first")
    for name, codes in (("pred", pred), ("label", label)):
        if not np.issubdtype(codes.dtype, np.integer):
            raise TypeError(f"{name} is {codes.dtype}; expected integer codes")
    if pred.size and int(pred.max()) >= count:
        raise ValueError(f"pred holds values up to {pred.max()}; expected 0 to {count - 1}")
    pred, label = within_annotated(pred, label)
    for name, codes in (("pred", pred), ("label", label)):
        if codes.size and not (codes.min() >= 0 and codes.max() < count):
            raise ValueError(f"{name} holds values from {codes.min()} to {codes.max()}; expected 0 to {count - 1}")
    x, y, z = (float(step) for step in spacing_mm)
    places = [measure(codes, count - 1, (x, y, z)).centroid_mm for codes in (pred, label)]
    distance = np.full(count, np.nan)
    distance[1:] = np.linalg.norm(places[0] - places[1], axis=1)
    inside = label > 0
    joint = np.bincount(label[inside].astype(np.int64) * count + pred[inside], minlength=count**2).reshape(count, count)
    offset = np.full(count, np.nan)
    for chain in _chains(anatomy, skipped):
        votes = joint[np.ix_(chain, chain)]
        named = votes.any(axis=1)
        offset[chain[named]] = votes[named].argmax(axis=1) - np.flatnonzero(named)
    distance[list(skipped)] = np.nan
    return Identification(distance, distance <= within_mm, offset)


def _chains(anatomy: Anatomy, unannotated: Sequence[int]) -> list[np.ndarray]:
    """Codes of each kind from the bottom up, of structures that have an order."""
    ordered = [s for s in anatomy.along_spine() if s.code not in unannotated]
    return [np.array([s.code for s in ordered if s.kind == kind]) for kind in dict.fromkeys(s.kind for s in ordered)]
