"""Per-structure statistics of a label map: state, volume, place, height and confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.levels.curve import SpineCurve
from cps4_monai.levels.heights import structure_heights
from cps4_monai.levels.moments import Moments, measure
from cps4_monai.levels.morphometry import NOTHING, Morphometry, morphometry
from cps4_monai.levels.settings import LevelThresholds

STATES = ("present", "cut", "absent", "not_trained")
View = tuple[int, int, int, int]


class Confidence(NamedTuple):
    """How sure the network is of a structure, as means over its voxels, in [0, 1].

    Attributes:
        label: probability of the label itself, in doubt where level or outline is.
        outline: probability of any structure of its kind, in doubt where the outline is; None where unknown.
    """

    label: float
    outline: float | None = None

    @property
    def outline_or_label(self) -> float:
        """That in the outline; of results of versions before 0.3.1, which did not keep it, that in the label."""
        return self.label if self.outline is None else self.outline


@dataclass(frozen=True)
class StructureStatistics:
    """What one scan shows of one structure.

    Attributes:
        code: label.
        name: short name.
        kind: kind of structure.
        state: ``present``; ``cut``: it touches the superior, inferior, anterior or posterior border of the view;
            ``absent``; ``not_trained``: the training labels never show it.
        cut_at: the borders touched, of "superior", "inferior", "anterior", "posterior".
        lateral: it reaches the first or the last slice, so part of its width may lie outside the slab.
        volume_ml: volume within the slab.
        centroid_mm: in the scanner's coordinates (RAS), through the affine; None if not in the map.
        centroid_voxels: in voxels of the scan (of the slices where no scan affine was given); None likewise.
        height_mm: extent along the spine, see :mod:`cps4_monai.levels.heights`; None if not in the map.
        confidence: mean probability of its label over its voxels, in [0, 1]; None where unknown.
        outline_confidence: mean probability of any structure of its kind over its voxels, likewise.
        morphometry: heights and angle, see :mod:`cps4_monai.levels.morphometry`; none where the view cuts it.
    """

    code: int
    name: str
    kind: str
    state: str
    cut_at: tuple[str, ...]
    lateral: bool
    volume_ml: float
    centroid_mm: tuple[float, float, float] | None
    centroid_voxels: tuple[float, float, float] | None
    height_mm: float | None
    confidence: float | None
    outline_confidence: float | None = None
    morphometry: Morphometry = NOTHING

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON and CSV; the morphometry's beside the others."""
        flat = asdict(self)
        flat.update(flat.pop("morphometry"))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()}


def structure_statistics(
    labels: np.ndarray,
    affine: np.ndarray,
    anatomy: Anatomy,
    *,
    confidence: Mapping[int, Confidence] | None = None,
    unannotated: Sequence[int] = (),
    scan_affine: np.ndarray | None = None,
    view: View | None = None,
    thresholds: LevelThresholds | None = None,
) -> tuple[StructureStatistics, ...]:
    """Statistics of every structure of the anatomy, by code, background left out.

    Args:
        labels: (D, H, W) integer codes, H superior to inferior, W anterior to posterior.
        affine: (4, 4) from indices (d, h, w) to scanner coordinates (RAS) in mm.
        anatomy: the structures.
        confidence: by code, where known.
        unannotated: codes that the training labels never show.
        scan_affine: (4, 4) of the scan's own grid, for ``centroid_voxels``.
        view: (first H, end H, first W, end W), end exclusive: the part of the grid that shows the scan, where slices
            are padded; None for all of it.
        thresholds: ``border_voxels``.

    Raises:
        ValueError: labels that are not (D, H, W) or outside the anatomy, or an affine that is not (4, 4).
    """
    thresholds = thresholds or LevelThresholds()
    check_labels(labels, anatomy)
    place = _Place.of(affine, scan_affine)
    moments = measure(labels, anatomy.num_classes - 1, _triple(place.spacing_mm))
    curve = _curve(moments, anatomy)
    heights = _heights(moments, anatomy, curve)
    known: Mapping[int, Confidence] = confidence or {}
    boxes = ndimage.find_objects(labels, max_label=anatomy.num_classes - 1)
    cuts = _cuts(boxes, labels.shape, view, thresholds.border_voxels)
    sizes = morphometry(labels, boxes, moments, curve, cuts, anatomy)
    result = []
    for row, structure in enumerate(anatomy.foreground):
        box = boxes[row]
        if box is None:
            result.append(_not_in_the_map(structure, structure.code not in unannotated))
            continue
        mm, voxels = place.of_centroid(moments.centroid_mm[row])
        sure = known.get(structure.code)
        cut_at = cuts[structure.code]
        result.append(
            StructureStatistics(
                code=structure.code,
                name=structure.name,
                kind=structure.kind,
                state="cut" if cut_at else "present",
                cut_at=cut_at,
                lateral=box[0].start == 0 or box[0].stop == labels.shape[0],
                volume_ml=float(moments.volume_mm3[row]) / 1000.0,
                centroid_mm=mm,
                centroid_voxels=voxels,
                height_mm=float(heights[row]),
                confidence=None if sure is None else sure.label,
                outline_confidence=None if sure is None else sure.outline,
                morphometry=sizes.get(structure.code, NOTHING),
            )
        )
    return tuple(result)


@dataclass(frozen=True)
class _Place:
    """Where the slices lie: in the scanner, and on the scan's own grid where that is known."""

    affine: np.ndarray
    scan_affine: np.ndarray | None
    spacing_mm: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray, scan_affine: np.ndarray | None) -> _Place:
        affine = np.asarray(affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"affine has shape {affine.shape}; expected (4, 4), from (d, h, w) to millimetres")
        scan = None if scan_affine is None else np.asarray(scan_affine, dtype=np.float64)
        return cls(affine, scan, np.linalg.norm(affine[:3, :3], axis=0))

    def of_centroid(self, centroid_mm: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """A centroid (3,) along the slices' axes: in the scanner's mm, and in voxels of the scan."""
        voxel, scan = centroid_mm / self.spacing_mm, self.scan_affine
        mm = self.affine[:3, :3] @ voxel + self.affine[:3, 3]
        return _triple(mm), _triple(voxel if scan is None else np.linalg.solve(scan[:3, :3], mm - scan[:3, 3]))


def _curve(moments: Moments, anatomy: Anatomy) -> SpineCurve:
    """Through the centres of all structures of the chain."""
    chain = (moments.voxels > 0) & np.array([structure.order is not None for structure in anatomy.foreground])
    return SpineCurve.fit(moments.centroid_mm[chain][:, 1:], np.sqrt(moments.volume_mm3[chain]))


def _heights(moments: Moments, anatomy: Anatomy, curve: SpineCurve) -> np.ndarray:
    """(C - 1,) extent of each structure along the curve, in mm; NaN where there is none."""
    in_map = moments.voxels > 0
    kinds = np.array([structure.kind for structure in anatomy.foreground])
    tangent = curve.locate(moments.centroid_mm[in_map][:, 1:])[2]
    heights = np.full(len(kinds), np.nan)
    heights[in_map] = structure_heights(moments.covariance_mm2[in_map], kinds[in_map], tangent)
    return heights


def _not_in_the_map(structure: Structure, trained: bool) -> StructureStatistics:
    state = "absent" if trained else "not_trained"
    return StructureStatistics(
        structure.code, structure.name, structure.kind, state, (), False, 0.0, None, None, None, None
    )


def check_labels(labels: np.ndarray, anatomy: Anatomy) -> None:
    """Refuse what is no label map of the anatomy.

    Raises:
        ValueError: not three-dimensional, empty, or with codes outside the anatomy.
        TypeError: not of an integer type.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels are {labels.dtype}; expected integer codes: round and convert them, e.g. to uint8")
    if labels.ndim != 3 or labels.size == 0:
        raise ValueError(f"labels have shape {labels.shape}; expected (D, H, W), none of them 0")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= anatomy.num_classes:
        raise ValueError(f"labels run from {low} to {high}; expected codes 0 to {anatomy.num_classes - 1}")


def _cuts(
    boxes: Sequence[tuple[slice, ...] | None], shape: tuple[int, ...], view: View | None, within: int
) -> dict[int, tuple[str, ...]]:
    """The borders of the view that each structure of the map touches, by code."""
    return {code: _borders(box, shape, view, within) for code, box in enumerate(boxes, start=1) if box is not None}


def _borders(box: tuple[slice, ...], shape: tuple[int, ...], view: View | None, within: int) -> tuple[str, ...]:
    h0, h1, w0, w1 = view or (0, shape[1], 0, shape[2])
    touched = {
        "superior": box[1].start < h0 + within,
        "inferior": box[1].stop > h1 - within,
        "anterior": box[2].start < w0 + within,
        "posterior": box[2].stop > w1 - within,
    }
    return tuple(name for name, touches in touched.items() if touches)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
