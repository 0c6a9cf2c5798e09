"""Heights of bodies and discs and the lumbar lordosis, from end plates fitted to a label map's mid-sagittal section.

Definitions and sources: docs/how-to/segment.md. All lengths are in the sagittal plane, over (H, W) in mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.levels.curve import SpineCurve
from cps4_monai.levels.moments import Moments

SLAB_MM = 2.0  # slices this near to a structure's middle are taken together
CENTRAL_SHARE = 0.8  # of the depth, to which end plates are fitted: corners are rounded
S1_BAND_MM = 8.0  # of the sacrum, below its end plate
_TURNS = 3  # each turns the frame to the end plates found; the second is already within a tenth of a degree
_MIN_BINS = 5
_FINER = 4  # a column is as wide as the longer side of a pixel: whole pixels of the other side do not fill it evenly


@dataclass(frozen=True)
class Morphometry:
    """Sizes of one structure; None where the view cuts it, or where it is none of that kind.

    Attributes:
        anterior_height_mm: of a body: distance of its end plates at the anterior wall.
        middle_height_mm: halfway between the walls.
        posterior_height_mm: at the posterior wall.
        disc_height_mm: of a disc: mean distance of its faces over the central share of its depth.
        lordosis_deg: of the sacrum: angle between the superior end plates of L1 and S1, positive for lordosis.
    """

    anterior_height_mm: float | None = None
    middle_height_mm: float | None = None
    posterior_height_mm: float | None = None
    disc_height_mm: float | None = None
    lordosis_deg: float | None = None


NOTHING = Morphometry()


@dataclass(frozen=True)
class _Plates:
    """End plates of a section in its own frame: x runs to posterior and is 0 halfway between the walls.

    Attributes:
        centre_hw_mm: point halfway between the walls and between the faces.
        up_hw: unit vector over (H, W), across the section, superior.
        half_depth_mm: half the distance between the walls.
        upper: parabola (c0, c1, c2) of the upper face over x, in mm.
        lower: likewise of the lower one.
    """

    centre_hw_mm: np.ndarray
    up_hw: np.ndarray
    half_depth_mm: float
    upper: np.ndarray
    lower: np.ndarray

    def height(self, x_mm: float) -> float:
        """Distance of the faces at x."""
        return float((self.upper - self.lower) @ np.array([1.0, x_mm, x_mm**2]))

    @property
    def mean_height(self) -> float:
        """Mean distance of the faces over the central share of the depth."""
        reach = CENTRAL_SHARE * self.half_depth_mm
        return float((self.upper - self.lower) @ np.array([1.0, 0.0, reach**2 / 3.0]))

    @property
    def upper_angle_deg(self) -> float:
        """Direction of the upper face, from posterior (0) towards superior."""
        posterior = _posterior(self.up_hw) + self.upper[1] * self.up_hw
        return float(np.degrees(np.arctan2(-posterior[0], posterior[1])))


def morphometry(
    labels: np.ndarray,
    boxes: Sequence[tuple[slice, ...] | None],
    moments: Moments,
    curve: SpineCurve,
    cut_at: Mapping[int, Sequence[str]],
    anatomy: Anatomy,
) -> dict[int, Morphometry]:
    """Sizes of each body, disc and sacrum of the chain that is in a label map, by code.

    Args:
        labels: (D, H, W) codes, H superior to inferior, W anterior to posterior.
        boxes: of the codes 1 to C-1, see ``scipy.ndimage.find_objects``.
        moments: of the same codes.
        curve: through the structures of the chain.
        cut_at: by code, the borders of the view that a structure touches.
        anatomy: the structures.
    """
    plates: dict[int, _Plates | None] = {}
    sizes: dict[int, Morphometry] = {}
    for structure in anatomy.foreground:
        row = structure.code - 1
        if structure.order is None or structure.kind not in ("vertebra", "disc"):
            continue  # all vertebrae in one class, say, are no body
        if boxes[row] is None or cut_at.get(structure.code):
            continue
        points = _section(labels, boxes[row], structure.code, moments, row)
        tangent = curve.locate(moments.centroid_mm[row : row + 1, 1:])[2][0]
        up = _across(moments.covariance_mm2[row], tangent) if structure.kind == "disc" else tangent
        plates[structure.code] = both = _fit(points, up, moments.spacing_mm)
        if both is not None:
            sizes[structure.code] = _sizes(both, structure)
    sacra = [s.code for s in anatomy.along_spine() if s.kind == "sacrum" and boxes[s.code - 1] is not None]
    if sacra:  # of several segments the topmost one bears the end plate
        lordosis = _lordosis(labels, sacra[-1], boxes, moments, cut_at, plates, anatomy)
        if lordosis is not None:
            sizes[sacra[-1]] = Morphometry(lordosis_deg=lordosis)
    return sizes


def _sizes(plates: _Plates, structure: Structure) -> Morphometry:
    if structure.kind == "disc":
        return Morphometry(disc_height_mm=plates.mean_height)
    return Morphometry(*(plates.height(x * plates.half_depth_mm) for x in (-1.0, 0.0, 1.0)))


def _lordosis(
    labels: np.ndarray,
    sacrum: int,
    boxes: Sequence[tuple[slice, ...] | None],
    moments: Moments,
    cut_at: Mapping[int, Sequence[str]],
    plates: Mapping[int, _Plates | None],
    anatomy: Anatomy,
) -> float | None:
    """Angle between the superior end plates of L1 and S1; None where one of them, or what lies on S1, is not seen."""
    by_name = {s.name: s.code for s in anatomy.foreground}
    top = plates.get(by_name.get("L1", 0))
    if top is None or set(cut_at.get(sacrum, ())) - {"inferior"}:
        return None
    codes = [s.code for s in anatomy.along_spine()]
    above = codes[codes.index(sacrum) + 1 :][:2]
    on_it = next((plates[code] for code in above if plates.get(code) is not None), None)
    if on_it is None:
        return None
    row = sacrum - 1
    points = _section(labels, boxes[row], sacrum, moments, row)
    s1 = _fit(points, on_it.up_hw, moments.spacing_mm, below=on_it)
    return None if s1 is None else s1.upper_angle_deg - top.upper_angle_deg


def _section(
    labels: np.ndarray, box: tuple[slice, ...] | None, code: int, moments: Moments, row: int
) -> tuple[np.ndarray, int]:
    """(N, 2) points over (H, W) in mm, ``_FINER`` x ``_FINER`` in each pixel of the slices about a structure's middle,
    and how many of them lie on each other: the number of these slices times that of the points in a pixel.
    """
    assert box is not None
    middle = moments.centroid_mm[row, 0] / moments.spacing_mm[0]
    reach = max(0.5, SLAB_MM / moments.spacing_mm[0])
    first, last = int(np.ceil(middle - reach)), int(np.floor(middle + reach))
    first, last = max(first, box[0].start), min(last, box[0].stop - 1)
    part = labels[first : last + 1, box[1], box[2]] == code
    slices, h, w = np.nonzero(part)
    count = max(1, len(np.unique(slices)))
    start = np.array([box[1].start, box[2].start])
    within = (np.arange(_FINER) + 0.5) / _FINER - 0.5
    offsets = np.stack(np.meshgrid(within, within, indexing="ij"), axis=-1).reshape(-1, 2)
    pixels = (np.stack([h, w], axis=-1) + start)[:, None] + offsets
    return pixels.reshape(-1, 2) * np.array(moments.spacing_mm[1:]), count * _FINER**2


def _fit(
    section: tuple[np.ndarray, int],
    up_hw: np.ndarray,
    spacing_mm: tuple[float, float, float],
    below: _Plates | None = None,
) -> _Plates | None:
    """End plates of a section; None where it is too small.

    Points are counted in columns along the frame's up: their number gives the distance of the faces there, and their
    mean the middle between them, both without the half pixel by which an outermost pixel misses the face.

    Args:
        section: see :func:`_section`.
        up_hw: first guess of the direction across it.
        spacing_mm: (slice, H, W).
        below: the structure on it, for the sacrum: only a band below the upper face is taken, as deep as that.
    """
    points, count = section
    plates = None
    for _ in range(_TURNS):
        part = points if below is None else _band(points, up_hw, below, max(spacing_mm[1:]))
        plates = _fit_once(part, count, up_hw, spacing_mm)
        if plates is None:
            return None
        slope = plates.upper[1] if below is not None else 0.5 * (plates.upper[1] + plates.lower[1])
        up_hw = up_hw - slope * _posterior(up_hw)
        up_hw = up_hw / np.linalg.norm(up_hw)
    return plates


def _band(points: np.ndarray, up_hw: np.ndarray, above: _Plates, width: float) -> np.ndarray:
    """Pixels under a structure, down to a line that lies ``S1_BAND_MM`` below the lowest of their upper face."""
    offset = points - above.centre_hw_mm
    along, across = offset @ up_hw, offset @ _posterior(up_hw)
    under = np.abs(across) <= above.half_depth_mm
    if not under.any():
        return points[:0]
    column = np.floor((across[under] + above.half_depth_mm) / width).astype(np.int64)
    tops = np.full(int(column.max()) + 1, -np.inf)
    np.maximum.at(tops, column, along[under])
    tops = tops[np.isfinite(tops)]
    return points[under & (along > np.quantile(tops, 0.1) - S1_BAND_MM)]


def _fit_once(
    points: np.ndarray, count: int, up_hw: np.ndarray, spacing_mm: tuple[float, float, float]
) -> _Plates | None:
    """The parabolas of both faces in a given frame."""
    if len(points) == 0:
        return None
    width = max(spacing_mm[1:])
    along, across = points @ up_hw, points @ _posterior(up_hw)
    start = across.min() - 0.5 * width
    column = ((across - start) / width).astype(np.int64)
    pixels = np.bincount(column)
    height = pixels * (spacing_mm[1] * spacing_mm[2] / (width * count))
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = np.bincount(column, weights=along) / pixels
    full = np.flatnonzero(height > 0.5 * np.median(height[pixels > 0]))
    first, last = int(full[0]), int(full[-1])
    half_depth = 0.5 * (last + 1 - first) * width
    centre = first * width + half_depth
    x = (np.arange(len(pixels)) + 0.5) * width - centre
    central = (np.abs(x) <= CENTRAL_SHARE * half_depth) & (pixels > 0)
    if central.sum() < _MIN_BINS:
        return None
    powers = np.stack([np.ones(int(central.sum())), x[central], x[central] ** 2], axis=-1)
    faces = np.stack([middle + 0.5 * height, middle - 0.5 * height], axis=-1)[central]
    upper, lower = np.linalg.lstsq(powers, faces, rcond=None)[0].T
    middle_hw = (start + centre) * _posterior(up_hw) + 0.5 * (upper[0] + lower[0]) * up_hw
    return _Plates(middle_hw, up_hw, half_depth, upper, lower)


def _across(covariance_mm2: np.ndarray, tangent_hw: np.ndarray) -> np.ndarray:
    """Unit vector along the shorter axis of a section, on the side of the spine's tangent."""
    shorter = np.linalg.eigh(covariance_mm2)[1][:, 0]
    return shorter if shorter @ tangent_hw > 0 else -shorter


def _posterior(up_hw: np.ndarray) -> np.ndarray:
    """The direction at a right angle to up, to posterior."""
    return np.array([up_hw[1], -up_hw[0]])
