"""What a result looks like, whatever its scan: quantities that are odd where a network saw what it never learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.levels.statistics import Confidence, StructureStatistics

FEW = 0.02  # added to what may be 0 before its logarithm is taken
BODY_MM = 26.0  # usual height of a lumbar body
FEWEST = 2  # structures whose sizes can be compared
UNKNOWN = 0.1  # spread of the sizes of fewer


def scan_traits(
    image: np.ndarray,
    argmax: np.ndarray,
    labels: np.ndarray,
    confidence: Mapping[int, Confidence],
    structures: Sequence[StructureStatistics],
    anatomy: Anatomy,
) -> dict[str, float]:
    """Quantities by which :class:`cps4_monai.levels.flag_calibration.FlagCalibration` knows results of no use.

    A network that meets a contrast it never learned draws ragged structures of any size, across edges and not along
    them, and of no common shape; whatever it says of its own confidence.

    ============== ================================================================================================
    confidence     mean probability of the labels over their voxels, in [0, 1]
    kept           share of the argmax's foreground that is of the same kind once levels are decoded, in [0, 1]
    body_sizes     log of the spread (standard deviation of the log volume) of whole vertebral bodies
    body_heights   the same of their heights
    disc_sizes     the same of whole discs' volumes
    body_height    size of the log of the bodies' median height over 26 mm
    edges          log of the mean intensity step across outlines over that between neighbours within a structure
    contrast       log of the median intensity of discs over that of bodies
    ============== ================================================================================================

    Args:
        image: (D, H, W) in [0, 1], what the network saw.
        argmax: (D, H, W) its labels.
        labels: (D, H, W) those once levels are decoded.
        confidence: of each label, by code.
        structures: of the result.
        anatomy: the classes.
    """
    foreground = argmax > 0
    if not foreground.any() or not (labels > 0).any():
        return {**dict.fromkeys(TRAITS, 0.0), "body_sizes": np.log(UNKNOWN), "body_heights": np.log(UNKNOWN)}
    kinds = np.array([s.kind for s in anatomy.structures])
    number = np.unique(kinds, return_inverse=True)[1].astype(np.uint8)  # text at each voxel would be 40 times as much
    same = (number[argmax[foreground]] == number[labels[foreground]]).mean()
    counts = np.bincount(labels.reshape(-1), minlength=anatomy.num_classes)
    bodies, discs = (
        [s for s in structures if s.kind == kind and s.state == "present"] for kind in ("vertebra", "disc")
    )
    heights = [s.height_mm for s in bodies if s.height_mm]
    sure = [confidence[code].label if code in confidence else 0.0 for code in range(1, len(counts))]
    return {
        "confidence": float(np.average(sure, weights=counts[1:])),
        "kept": float(same),
        "body_sizes": _spread([s.volume_ml for s in bodies]),
        "body_heights": _spread(heights),
        "disc_sizes": _spread([s.volume_ml for s in discs]),
        "body_height": abs(float(np.log(np.median(heights) / BODY_MM))) if heights else 0.0,
        "edges": _edges(*_box(image, labels)),
        "contrast": _contrast(image, (kinds == "disc")[labels], (kinds == "vertebra")[labels]),
    }


TRAITS = ("confidence", "kept", "body_sizes", "body_heights", "disc_sizes", "body_height", "edges", "contrast")


def _spread(sizes: Sequence[float]) -> float:
    spread = float(np.std(np.log(sizes))) if len(sizes) >= FEWEST else UNKNOWN
    return float(np.log(spread + FEW))


def _contrast(image: np.ndarray, discs: np.ndarray, bodies: np.ndarray) -> float:
    if not discs.any() or not bodies.any():
        return 0.0
    return float(np.log((np.median(image[discs]) + FEW) / (np.median(image[bodies]) + FEW)))


def _box(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of both that holds all labels, and a pixel more at each side."""
    rows, columns = (np.flatnonzero(labels.any(axis=(0, other))) for other in (2, 1))
    box = (slice(None), *(slice(max(0, at[0] - 1), at[-1] + 2) for at in (rows, columns)))
    return image[box], labels[box]


def _edges(image: np.ndarray, labels: np.ndarray) -> float:
    """Log of the mean step between neighbours in plane of different labels, over that of one structure's."""
    across, within = [], []
    for axis in (1, 2):
        step = np.abs(np.diff(image, axis=axis))
        one, other = (
            np.take(labels, range(*ends), axis) for ends in ((labels.shape[axis] - 1,), (1, labels.shape[axis]))
        )
        across.append(step[one != other])
        within.append(step[(one == other) & (one > 0)])
    means = [float(np.concatenate(steps).mean()) if any(map(len, steps)) else 0.0 for steps in (across, within)]
    return float(np.log((means[0] + 1e-3) / (means[1] + 1e-3)))
