"""The chain of levels by dynamic programming: the unique, contiguous, ordered assignment of highest probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cps4_monai.levels.settings import LevelThresholds


@dataclass(frozen=True)
class Candidates:
    """Components sorted along the spine, and what is known of each.

    Attributes:
        log_levels: (n, L) log probability of each trained level, floored; -inf where the kind differs.
        log_background: (n,) log probability of being background, floored.
        weight: (n,) weights, 1 for a whole structure.
        kind: (n,) kinds.
        place_mm: (n,) arc length of the centroid along the spine, not descending.
        across_mm: (n,) signed distance of the centroid from the spine's curve.
        shortfall_mm: (n,) half of what is missing to a typical height: by so much the centroid of a part may lie
            nearer to its neighbour than that of the whole.
        at_border: (n,) whether the superior or inferior border of the view cuts the candidate.
        union_height_mm: (n, n) extent along the spine of each pair taken as one structure.
        room_below_mm: (n,) view below the centroid.
        room_above_mm: (n,) view above it.
    """

    log_levels: np.ndarray
    log_background: np.ndarray
    weight: np.ndarray
    kind: np.ndarray
    place_mm: np.ndarray
    across_mm: np.ndarray
    shortfall_mm: np.ndarray
    at_border: np.ndarray
    union_height_mm: np.ndarray
    room_below_mm: np.ndarray
    room_above_mm: np.ndarray

    def __len__(self) -> int:
        return len(self.weight)


@dataclass(frozen=True)
class ChainScale:
    """Sizes of this spine: what two levels' distance and one structure's extent are expected to be.

    Attributes:
        step_mm: distance from one structure to the next (disc to body).
        height_mm: typical height per kind.
        height_limit_mm: height per kind above which it is not one structure.
        depth_mm: typical anterior-posterior depth per kind.
        free_kinds: kinds without a typical size (the sacrum), on which spacing is not judged.
    """

    step_mm: float
    height_mm: dict[str, float]
    height_limit_mm: dict[str, float]
    depth_mm: dict[str, float]
    free_kinds: tuple[str, ...] = ("sacrum", "other")


def decode_chain(candidates: Candidates, scale: ChainScale, thresholds: LevelThresholds) -> tuple[np.ndarray, float]:
    """Best assignment of levels to candidates.

    The score of an assignment is the sum over assigned candidates of weight * (log p(level) - log p(background) +
    skip penalty), less a cost for each level missed in view, for distances along the spine that do not fit the levels
    counted, and for taking two candidates as pieces of one structure. Levels never descend along the spine; a level
    repeats only for such pieces. O(n^2 L^2) with n candidates and L levels, vectorised but for one loop over n.

    Returns:
        (n,) index of the level of each candidate, -1 for dropped; the score in nats.
    """
    n, levels = candidates.log_levels.shape
    if n == 0 or levels == 0:
        return np.full(n, -1), 0.0
    distrust = thresholds.off_curve_penalty * np.maximum(0.0, np.abs(candidates.across_mm) - thresholds.off_curve_mm)
    gain = candidates.log_levels - candidates.log_background[:, None] + thresholds.skip_penalty
    gain = candidates.weight[:, None] * gain - distrust[:, None]
    start = thresholds.gap_penalty * _missed(candidates.room_below_mm, scale.step_mm, np.arange(levels))
    end = thresholds.gap_penalty * _missed(candidates.room_above_mm, scale.step_mm, np.arange(levels)[::-1])
    delta = np.arange(levels)[None, :] - np.arange(levels)[:, None]  # (from, to)
    best = np.full((n, levels), -np.inf)
    back = np.full((n, levels), -1)
    for i in range(n):
        value, previous = -start[i], np.full(levels, -1)
        if i:
            step = np.where(delta >= 0, -_step_cost(candidates, i, levels, scale, thresholds)[:, delta], -np.inf)
            reach = (best[:i, :, None] + step).reshape(-1, levels)  # (i * from, to)
            source = np.argmax(reach, axis=0)
            arrived = reach[source, np.arange(levels)]
            previous = np.where(arrived > value, source, -1)
            value = np.maximum(arrived, value)
        best[i], back[i] = gain[i] + value, previous
    final = best - end
    assigned = np.full(n, -1)
    if final.max() <= 0.0:
        return assigned, 0.0
    at = int(np.argmax(final))
    while at >= 0:
        i, level = divmod(at, levels)
        assigned[i] = level
        at = int(back[i, level])
    return assigned, float(final.max())


def _missed(room_mm: np.ndarray, step_mm: float, levels_beyond: np.ndarray) -> np.ndarray:
    """(n, L) levels that the view beyond the chain's end would show but no candidate does."""
    visible = np.floor(np.maximum(room_mm, 0.0) / step_mm)
    return np.minimum(visible[:, None], levels_beyond[None, :])


def _step_cost(
    candidates: Candidates, i: int, levels: int, scale: ChainScale, thresholds: LevelThresholds
) -> np.ndarray:
    """(i, L) cost of going from each earlier candidate to candidate i by 0 to L - 1 levels."""
    delta = np.arange(levels)
    kind = str(candidates.kind[i])
    distance = candidates.place_mm[i] - candidates.place_mm[:i]
    # a cut structure is a part for sure; two small pieces of one kind may be parts of one, so only discs vouch for them
    part = candidates.at_border | (candidates.kind != kind)
    other_kind = candidates.kind[:i] != kind
    longest = distance + candidates.shortfall_mm[:i] * part[:i]
    longest += candidates.shortfall_mm[i] * (candidates.at_border[i] | other_kind)
    misfit = np.maximum(distance[:, None] / scale.step_mm - delta, delta - longest[:, None] / scale.step_mm)
    misfit -= thresholds.spacing_tolerance
    judged = ~np.isin(candidates.kind[:i], scale.free_kinds) & (kind not in scale.free_kinds)
    cost = thresholds.spacing_penalty * np.maximum(misfit, 0.0) * judged[:, None]
    cost += thresholds.gap_penalty * np.maximum(delta - 1, 0)
    apart = np.abs(candidates.across_mm[i] - candidates.across_mm[:i])
    of_one_structure = candidates.kind[:i] == kind
    of_one_structure &= candidates.union_height_mm[:i, i] <= scale.height_limit_mm.get(kind, np.inf)
    of_one_structure &= apart <= thresholds.depth_ratio * scale.depth_mm.get(kind, np.inf)
    cost[:, 0] = np.where(of_one_structure, thresholds.merge_penalty, np.inf)
    return cost
