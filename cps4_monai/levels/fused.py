"""Components too tall to be one structure, taken apart into pieces that compete for levels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from cps4_monai.levels.components import MAX_REGIONS, Components, contacts, one_hot_shares
from cps4_monai.levels.curve import SpineCurve
from cps4_monai.levels.heights import height_limits, structure_heights, typical_heights
from cps4_monai.levels.moments import measure, weighted_median
from cps4_monai.levels.settings import LevelThresholds

_CRUMB_SHARE = 0.1  # a piece below this share of a whole structure is a rough edge of its neighbour, not a candidate
_MIN_SLAB = 0.5  # a cut leaves at least this share of a typical height on both sides


def fit_spine(components: Components) -> SpineCurve:
    """The curve through all movable components, weighted by volume."""
    chain = components.fixed_code == 0
    moments = components.moments
    return SpineCurve.fit(moments.centroid_mm[chain][:, 1:], np.sqrt(moments.volume_mm3[chain]))


def take_apart(
    components: Components, labels: np.ndarray, thresholds: LevelThresholds
) -> tuple[Components, np.ndarray]:
    """Split components of several labels by label, and what is still taller than one structure by discs or waist.

    Two bodies that touch where the disc was missed become two candidates, and so do two parts of one body under two
    labels: whether pieces are two structures or one is for the chain to decide (:mod:`cps4_monai.levels.chain`).

    Args:
        components: from :func:`cps4_monai.levels.components.find_components`.
        labels: the (D, H, W) label map.
        thresholds: ``tall_ratio`` and the ranges of heights.

    Returns:
        The candidates, and (N,) for each a number that pieces of one vertebra share which may be whole for all its
        height (``whole_body_mm``); see :func:`rejoined`.
    """
    if not len(components) or not (components.fixed_code == 0).any():
        return components, np.arange(len(components))
    curve = fit_spine(components)
    components = _by_label(components, labels[components.box])
    tall = _tall(components, curve, thresholds)
    if tall.any():
        return _by_planes(components, tall, curve, thresholds)
    return components, np.arange(len(components))


def rejoined(assigned: np.ndarray, cut_from: np.ndarray) -> np.ndarray:
    """Levels with the cuts undone that the chain had no use for.

    A piece without a level gets that of the others that it was one with, where these have one: the body is tall beside
    the others, which are compressed, and was not two of them.

    Args:
        assigned: (N,) index of the level of each candidate, -1 for none.
        cut_from: (N,) from :func:`take_apart`.
    """
    assigned = assigned.copy()
    for whole in np.unique(cut_from[assigned < 0]).tolist():
        pieces = cut_from == whole
        levels = np.unique(assigned[pieces & (assigned >= 0)])
        if len(levels) == 1:
            assigned[pieces] = levels[0]
    return assigned


def _tall(components: Components, curve: SpineCurve, thresholds: LevelThresholds) -> np.ndarray:
    _, _, tangent = curve.locate(components.moments.centroid_mm[:, 1:])
    heights = structure_heights(components.moments.covariance_mm2, components.kinds, tangent)
    typical = typical_heights(components, heights, thresholds)
    return (heights > height_limits(components.kinds, typical, thresholds)) & (components.fixed_code == 0)


def _by_label(components: Components, labels: np.ndarray) -> Components:
    """Each component of several labels becomes its single-label parts; crumbs join the part they touch most."""
    count = len(components)
    ids = components.ids.copy()
    parent = list(range(count))
    boxes = ndimage.find_objects(components.ids, max_label=count)
    shares = one_hot_shares(components, labels)
    for row in np.flatnonzero((components.fixed_code == 0) & ((shares > 0).sum(axis=1) > 1)).tolist():
        inside = components.ids[boxes[row]] == row + 1
        part, view = labels[boxes[row]], ids[boxes[row]]
        codes = np.flatnonzero(shares[row])
        for code in codes[codes != np.argmax(shares[row])].tolist():  # the first label keeps the id
            numbered, pieces = ndimage.label(inside & (part == code))
            if len(parent) + pieces > MAX_REGIONS:  # noise: what has no room stays with the first label
                sizes = np.bincount(numbered.reshape(-1))[1:]
                largest = np.argsort(-sizes, kind="stable")[: max(0, MAX_REGIONS - len(parent))]
                new = np.zeros(pieces + 1, dtype=numbered.dtype)
                new[largest + 1] = np.arange(1, len(largest) + 1)
                numbered, pieces = new[numbered], len(largest)
            view[numbered > 0] = numbered[numbered > 0] + len(parent)
            parent += [row] * pieces
    if len(parent) == count:
        return components
    parents = np.array(parent)
    volume = np.bincount(ids.reshape(-1), minlength=len(parents) + 1)[1:].astype(float)
    kinds = components.kinds[parents]
    movable = components.fixed_code[parents] == 0
    of_kind = {k: volume[movable & (kinds == k)] for k in np.unique(kinds[movable]).tolist()}
    whole = {k: weighted_median(volumes, volumes) for k, volumes in of_kind.items()}
    crumb = volume < _CRUMB_SHARE * np.array([whole.get(k, 0.0) for k in kinds.tolist()])
    crumb &= np.isin(parents, parents[count:])
    new_id = _join_crumbs(ids, parents, crumb, volume)
    used = np.unique(new_id[1:][volume > 0])
    compact = np.zeros(len(parents) + 1, dtype=np.int64)
    compact[used] = np.arange(1, len(used) + 1)
    pieces_of = replace(components, ids=ids)
    return pieces_of.renumbered(compact[new_id], len(used), kinds[used - 1], components.fixed_code[parents[used - 1]])


def _join_crumbs(ids: np.ndarray, parents: np.ndarray, crumb: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """New id (N + 1,) per piece: crumbs take that of the sibling they share most faces with."""
    new_id = np.arange(len(parents) + 1)
    if not crumb.any():
        return new_id
    faces = contacts(ids, len(parents)).toarray()[1:, 1:]
    siblings = parents[:, None] == parents[None, :]
    faces = faces * siblings * ~crumb[None, :]
    nearest = np.argmax(faces, axis=1) + 1
    touched = faces.max(axis=1) > 0
    largest = np.array([np.argmax(np.where(parents == p, volume, -1.0)) + 1 for p in parents[crumb]])
    new_id[1:][crumb] = np.where(touched[crumb], nearest[crumb], largest)
    return new_id


def _by_planes(
    components: Components, tall: np.ndarray, curve: SpineCurve, thresholds: LevelThresholds
) -> tuple[Components, np.ndarray]:
    """Cut each tall component across the spine: at the discs beside it, else at its waist; see :func:`take_apart`."""
    moments = components.moments
    place, _, tangent = curve.locate(moments.centroid_mm[:, 1:])
    heights = structure_heights(moments.covariance_mm2, components.kinds, tangent)
    typical = typical_heights(components, heights, thresholds)
    discs = place[(components.kinds == "disc") & (components.fixed_code == 0)]
    ids = components.ids.copy()
    kinds, fixed = components.kinds.tolist(), components.fixed_code.tolist()
    cut_from = list(range(len(components)))
    for row in np.flatnonzero(tall).tolist():
        flat = np.flatnonzero(components.ids == row + 1)
        index = np.unravel_index(flat, ids.shape)
        points = np.stack([(index[k] + components.origin[k]) * moments.spacing_mm[k] for k in (1, 2)], axis=-1)
        along = curve.locate(points)[0]
        height = typical[kinds[row]]
        cuts = _cuts(along, height, discs if kinds[row] == "vertebra" else discs[:0])
        _, slab = np.unique(np.searchsorted(cuts, along), return_inverse=True)  # without empty slabs
        ids.reshape(-1)[flat] = np.where(slab == 0, row + 1, len(kinds) + slab)
        kinds += [kinds[row]] * int(slab.max())
        fixed += [0] * int(slab.max())
        may_be_whole = kinds[row] == "vertebra" and heights[row] <= thresholds.whole_body_mm
        cut_from += [row if may_be_whole else len(cut_from) + piece for piece in range(int(slab.max()))]
    measured = measure(ids, len(kinds), moments.spacing_mm, components.origin)
    pieces = replace(
        components, ids=ids, kinds=np.array(kinds, "<U16"), fixed_code=np.array(fixed, np.int64), moments=measured
    )
    return pieces, np.array(cut_from)


def _cuts(along: np.ndarray, height: float, discs: np.ndarray) -> np.ndarray:
    """Sorted arc lengths at which to cut; always strictly inside the component."""
    low, high = np.quantile(along, [0.01, 0.99])
    margin = _MIN_SLAB * height
    inside = np.sort(discs[(discs > low + margin) & (discs < high - margin)])
    if len(inside):  # pieces of one disc make one cut
        groups = np.split(inside, np.flatnonzero(np.diff(inside) > margin) + 1)
        return np.array([float(np.mean(group)) for group in groups])
    pieces = max(2, round((high - low) / (1.2 * height)))
    profile, edges = np.histogram(along, bins=max(8, int((high - low) / 1.5)), range=(low, high))
    centres = 0.5 * (edges[1:] + edges[:-1])
    cuts = []
    for k in range(1, pieces):
        expected = low + (high - low) * k / pieces
        near = np.abs(centres - expected) < 0.25 * height
        cuts.append(float(centres[near][np.argmin(profile[near])]) if near.any() else float(expected))
    return np.unique(cuts)
