"""From labels and probabilities on the slice grid to levels that can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.levels.chain import Candidates, ChainScale, decode_chain
from cps4_monai.levels.components import Components, find_components, one_hot_shares
from cps4_monai.levels.evidence import mean_probabilities
from cps4_monai.levels.fused import fit_spine, rejoined, take_apart
from cps4_monai.levels.heights import height_limits, structure_heights, typical_heights, union_heights
from cps4_monai.levels.margin import NO_CHAIN, LevelMargin, shift_margin
from cps4_monai.levels.settings import LevelThresholds
from cps4_monai.levels.statistics import Confidence, View, check_labels

_AT_BORDER_MM = 4.0
MAX_CANDIDATES = 150  # the largest; a spine has 19, and each is compared with each


@dataclass(frozen=True)
class LevelResult:
    """Labels after decoding, and how they came about.

    Attributes:
        labels: (D, H, W) uint8.
        confidence: of each label in the result, by code.
        margin: how sure the numbering is.
        score: score of the chain in nats.
        changed_voxels: voxels whose label differs from the input's.
        renamed: structures that kept their place and changed their level, as (from name, to name).
        removed_islands: islands removed or absorbed.
        dropped: components that fit nowhere in the chain and became background.
    """

    labels: np.ndarray
    confidence: dict[int, Confidence]
    margin: LevelMargin
    score: float
    changed_voxels: int
    renamed: tuple[tuple[str, str], ...]
    removed_islands: int
    dropped: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, without the labels and the confidence (both are in the statistics)."""
        return {
            **self.margin.to_dict(),
            "chain_score": self.score,
            "changed_voxels": self.changed_voxels,
            "renamed": [list(pair) for pair in self.renamed],
            "removed_islands": self.removed_islands,
            "dropped_components": self.dropped,
        }


def decode_levels(
    labels: np.ndarray,
    scores: Iterable[Any] | None,
    spacing_mm: Sequence[float],
    anatomy: Anatomy = MRSPINESEG,
    *,
    from_logits: bool = False,
    unannotated: Sequence[int] = (),
    view: View | None = None,
    thresholds: LevelThresholds | None = None,
) -> LevelResult:
    """Assign levels so that each is unique, the chain contiguous and ordered, and the total probability highest.

    Args:
        labels: (D, H, W) integer codes (the argmax), H superior to inferior, W anterior to posterior.
        scores: probabilities or logits, D slices of (C, H, W), see
            :func:`cps4_monai.levels.evidence.mean_probabilities`; None takes the labels themselves as evidence.
        spacing_mm: (slice, H, W).
        anatomy: the structures; those with an order form the chain.
        from_logits: the scores are logits.
        unannotated: codes that the training labels never show; decoding starts at the lowest other one.
        view: (first H, end H, first W, end W) of the grid that shows the scan, None for all of it.
        thresholds: see :class:`cps4_monai.levels.settings.LevelThresholds`.

    Returns:
        The result; labels without any structure come back unchanged.

    Raises:
        ValueError: labels, scores and spacing that do not fit each other or the anatomy.
        TypeError: labels that are not integers.
    """
    thresholds = thresholds or LevelThresholds()
    check_labels(labels, anatomy)
    spacing = _check_spacing(spacing_mm)
    levels = [s for s in anatomy.along_spine() if s.code not in unannotated]
    components = find_components(labels, spacing, anatomy, unannotated, thresholds)
    components, cut_from = take_apart(components, labels, thresholds)
    if scores is None:
        shares = one_hot_shares(components, labels[components.box])
        evidence = np.pad(shares, ((0, 0), (0, anatomy.num_classes - shares.shape[1])))
    else:
        evidence = mean_probabilities(components, scores, anatomy.num_classes, from_logits)
    assigned, margin, score = _assign(components, evidence, levels, labels.shape, view, thresholds)
    assigned = rejoined(assigned, cut_from)
    codes = np.where(assigned >= 0, np.array([s.code for s in levels] or [0])[assigned], components.fixed_code)
    result = np.zeros(labels.shape, dtype=np.uint8)
    result[components.box] = np.concatenate([[0], codes]).astype(np.uint8)[components.ids]
    return LevelResult(
        labels=result,
        confidence=_confidence(components, evidence, codes, anatomy),
        margin=margin,
        score=score,
        changed_voxels=int(np.count_nonzero(result != labels)),
        renamed=_renamed(components, labels, codes, anatomy),
        removed_islands=components.removed_islands,
        dropped=int(np.sum(codes == 0)),
    )


def label_confidence(
    labels: np.ndarray, scores: Iterable[Any], anatomy: Anatomy = MRSPINESEG, *, from_logits: bool = False
) -> dict[int, Confidence]:
    """Confidence in each label, for labels left as they are (`--raw`); arguments as above."""
    check_labels(labels, anatomy)
    outside = [s.code for s in anatomy.foreground]  # nothing joins a chain: one region per code
    components = find_components(labels, (1.0, 1.0, 1.0), anatomy, outside)
    evidence = mean_probabilities(components, scores, anatomy.num_classes, from_logits)
    return _confidence(components, evidence, components.fixed_code, anatomy)


def _assign(
    components: Components,
    evidence: np.ndarray,
    levels: Sequence[Structure],
    shape: tuple[int, ...],
    view: View | None,
    thresholds: LevelThresholds,
) -> tuple[np.ndarray, LevelMargin, float]:
    """(N,) level index of each component (-1 for none), the margin, and the score."""
    assigned = np.full(len(components), -1)
    rows = np.flatnonzero(components.fixed_code == 0)
    if len(rows) == 0 or not levels:
        return assigned, NO_CHAIN, 0.0
    moments = components.moments
    rows = rows[np.argsort(-moments.voxels[rows], kind="stable")[:MAX_CANDIDATES]]
    place, across, tangent = fit_spine(components).locate(moments.centroid_mm[:, 1:])
    rows = rows[np.lexsort((moments.voxels[rows], components.kinds[rows], place[rows]))]
    typical = np.array([components.typical_volume_mm3(str(k)) for k in components.kinds[rows]])
    weight = np.clip(moments.volume_mm3[rows] / (thresholds.full_weight_share * typical), 1e-3, 1.0)
    scale = _scale(components, rows, weight, place, tangent, levels, thresholds)
    floor = thresholds.probability_floor
    of_kind = components.kinds[rows][:, None] == np.array([s.kind for s in levels])[None, :]
    probability = evidence[rows][:, [s.code for s in levels]]
    top, bottom = (view[0], view[1]) if view else (0, shape[1])
    h_index = moments.centroid_mm[rows, 1] / moments.spacing_mm[1]
    room_below = (bottom - 0.5 - h_index) * moments.spacing_mm[1]
    room_above = (h_index - (top - 0.5)) * moments.spacing_mm[1]
    height = structure_heights(moments.covariance_mm2, components.kinds, tangent)[rows]
    usual = np.array([scale.height_mm.get(k, 0.0) for k in components.kinds[rows].tolist()])
    anchors = _anchor_room(levels, scale.step_mm, thresholds)
    bonus = (probability * (room_below[:, None] >= anchors[None, :])).sum(axis=1)
    candidates = Candidates(
        log_levels=np.where(of_kind, np.log(np.maximum(probability, floor)), -np.inf),
        log_background=np.log(np.maximum(evidence[rows, 0], floor)),
        weight=weight * (1.0 + (thresholds.anchor_weight - 1.0) * np.minimum(bonus, 1.0)),
        kind=components.kinds[rows],
        place_mm=place[rows],
        across_mm=across[rows],
        shortfall_mm=0.5 * np.maximum(usual - height, 0.0),
        at_border=np.minimum(room_below, room_above) <= 0.5 * height + _AT_BORDER_MM,
        union_height_mm=union_heights(moments, components.kinds, tangent, place, rows),
        room_below_mm=room_below,
        room_above_mm=room_above,
    )
    chosen, score = decode_chain(candidates, scale, thresholds)
    assigned[rows] = chosen
    anchored = bool(np.any((chosen >= 0) & (room_below >= anchors[chosen]) & _is_anchor(levels)[chosen]))
    return assigned, shift_margin(candidates, chosen, _vertebral_step(levels), anchored), score


def _anchor_room(levels: Sequence[Structure], step_mm: float, thresholds: LevelThresholds) -> np.ndarray:
    """(L,) view needed below each level to count from it: the sacrum none, the two above it some, the others inf."""
    room = np.full(len(levels), np.inf)
    above = [i for i, s in enumerate(levels) if s.kind != "sacrum"][:2]
    room[above] = thresholds.anchor_room_mm + step_mm * np.arange(len(above))
    room[[i for i, s in enumerate(levels) if s.kind == "sacrum"]] = 0.0
    return room


def _is_anchor(levels: Sequence[Structure]) -> np.ndarray:
    lowest = next((i for i, s in enumerate(levels) if s.kind != "sacrum"), 0)
    return np.array([s.kind == "sacrum" or i == lowest for i, s in enumerate(levels)])


def _vertebral_step(levels: Sequence[Structure]) -> int:
    """Levels from one vertebra to the next; from any kind to its next where there are no vertebrae."""
    for kind in ("vertebra", "disc"):
        at = [i for i, s in enumerate(levels) if s.kind == kind]
        if len(at) > 1:
            return int(np.median(np.diff(at)))
    return 1


def _step_range(levels: Sequence[Structure], thresholds: LevelThresholds) -> tuple[float, float]:
    """Range in mm of the distance between adjoining structures.

    The threshold is that of bodies with a disc between them; in a chain of one kind its members are twice as far apart.
    """
    low, high = (bound * 2.0 / _vertebral_step(levels) for bound in thresholds.step_mm)
    return low, high


def _scale(
    components: Components,
    rows: np.ndarray,
    weight: np.ndarray,
    place: np.ndarray,
    tangent: np.ndarray,
    levels: Sequence[Structure],
    thresholds: LevelThresholds,
) -> ChainScale:
    """Sizes of this spine from its own components, within the ranges of the thresholds."""
    covariance = components.moments.covariance_mm2
    heights = typical_heights(components, structure_heights(covariance, components.kinds, tangent), thresholds)
    kinds = components.kinds[rows]
    normal = np.stack([-tangent[rows, 1], tangent[rows, 0]], axis=-1)
    depth = np.sqrt(12.0 * np.einsum("ni,nij,nj->n", normal, covariance[rows], normal))
    whole = weight >= 0.8
    depths = {
        k: float(np.median(depth[(kinds == k) & (whole if (whole & (kinds == k)).any() else True)]))
        for k in np.unique(kinds).tolist()
    }
    distances = []
    for kind in ("vertebra", "disc"):
        step = np.diff([i for i, s in enumerate(levels) if s.kind == kind])
        apart = np.diff(place[rows][(kinds == kind) & whole])
        if len(step):
            distances.append(apart[apart > 0.6 * heights.get("vertebra", 0.0)] / float(np.median(step)))
    known = np.concatenate(distances) if distances else np.zeros(0)
    low, high = _step_range(levels, thresholds)
    step_mm = float(np.clip(np.median(known), low, high)) if len(known) else float(np.sqrt(low * high))
    limits = height_limits(np.array(list(heights)), heights, thresholds).tolist()
    return ChainScale(step_mm, heights, dict(zip(heights, limits, strict=True)), depths)


def _confidence(
    components: Components, evidence: np.ndarray, codes: np.ndarray, anatomy: Anatomy
) -> dict[int, Confidence]:
    """Means over the voxels of all components that have a code: of its probability, and of that of its kind."""
    kinds = np.array([s.kind for s in anatomy.structures])
    result = {}
    for code in np.unique(codes[codes > 0]).tolist():
        rows = codes == code
        means = np.average(evidence[rows], axis=0, weights=np.maximum(components.moments.voxels[rows], 1))
        result[code] = Confidence(float(means[code]), float(means[kinds == kinds[code]].sum()))
    return result


def _renamed(
    components: Components, labels: np.ndarray, codes: np.ndarray, anatomy: Anatomy
) -> tuple[tuple[str, str], ...]:
    """Components whose most frequent input label is not their label now, dropped ones left out."""
    shares = one_hot_shares(components, labels[components.box])
    before = np.argmax(shares[:, 1:], axis=1) + 1 if len(codes) else codes
    pairs = zip(before.tolist(), codes.tolist(), strict=True)
    return tuple((anatomy[b].name, anatomy[c].name) for b, c in pairs if c and b != c)


def _check_spacing(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    values = tuple(float(s) for s in spacing_mm)
    if len(values) != 3 or not all(np.isfinite(values)) or min(values) <= 0:
        raise ValueError(f"spacing_mm is {values}; expected three positive numbers (slice, H, W) in millimetres")
    return (values[0], values[1], values[2])
