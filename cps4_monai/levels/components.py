"""Candidates for structures: connected components of each kind, without islands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, sparse

from cps4_monai.anatomy import Anatomy
from cps4_monai.levels.moments import Moments, measure, weighted_median
from cps4_monai.levels.settings import LevelThresholds

MAX_REGIONS = 1500


@dataclass(frozen=True)
class Components:
    """Numbered regions of a label map, each of one kind; row i is region i + 1.

    Attributes:
        ids: (d, h, w) int32 within ``box``, 0 for no region.
        box: the part of the volume that holds all foreground.
        shape: (D, H, W) of the whole volume.
        kinds: (N,) kind of each region.
        fixed_code: (N,) label that the region keeps whatever the chain (structures outside it), or 0.
        moments: sizes and places.
        removed_islands: how many islands were removed or absorbed.
    """

    ids: np.ndarray
    box: tuple[slice, slice, slice]
    shape: tuple[int, int, int]
    kinds: np.ndarray
    fixed_code: np.ndarray
    moments: Moments
    removed_islands: int = 0

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def origin(self) -> tuple[int, int, int]:
        """Index of ``ids[0, 0, 0]`` in the whole volume."""
        return (self.box[0].start, self.box[1].start, self.box[2].start)

    def typical_volume_mm3(self, kind: str) -> float:
        """Volume-weighted median of a kind's volumes in the chain: of structures, however many crumbs lie about."""
        volumes = self.moments.volume_mm3[(self.kinds == kind) & (self.fixed_code == 0)]
        return weighted_median(volumes, volumes)

    def renumbered(self, new_id: np.ndarray, count: int, kinds: np.ndarray, fixed_code: np.ndarray) -> Components:
        """The regions under new numbers.

        Args:
            new_id: (N + 1,) new number of each old one, 0 (first entry 0) to drop it.
            count: number of new regions.
            kinds: (count,) their kinds.
            fixed_code: (count,) their fixed labels.
        """
        ids = new_id.astype(np.int32)[self.ids]
        moments = measure(ids, count, self.moments.spacing_mm, self.origin)
        return replace(self, ids=ids, kinds=kinds, fixed_code=fixed_code, moments=moments)


def find_components(
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    anatomy: Anatomy,
    unannotated: Sequence[int] = (),
    thresholds: LevelThresholds | None = None,
) -> Components:
    """Connected components per kind, so that a body split between two labels by a wrong boundary is one candidate.

    Discs part the bodies and bodies part the discs; what still touches is taken apart in
    :func:`cps4_monai.levels.fused.take_apart`. Structures without an order, and unannotated ones, stay as labeled.

    Args:
        labels: (D, H, W) integer codes, H to inferior, W to posterior.
        spacing_mm: (slice, H, W).
        anatomy: the structures.
        unannotated: codes that the training labels never show.
        thresholds: sizes of islands.

    Returns:
        Regions above the island sizes; islands inside another structure have joined it.
    """
    thresholds = thresholds or LevelThresholds()
    occupied = ndimage.find_objects((labels > 0).view(np.uint8), max_label=1)[0]
    if occupied is None:
        occupied = (slice(0, 0), slice(0, 0), slice(0, 0))
    part = labels[occupied]
    chain = [s for s in anatomy.along_spine() if s.code not in unannotated]
    ids = np.zeros(part.shape, dtype=np.int32)
    kinds: list[str] = []
    fixed: list[int] = []
    for kind in sorted({s.kind for s in chain}):
        member = np.zeros(anatomy.num_classes, dtype=bool)
        member[[s.code for s in chain if s.kind == kind]] = True
        mask = member[part]
        numbered, count = ndimage.label(mask)
        ids[mask] = numbered[mask] + len(kinds)
        kinds += [kind] * count
        fixed += [0] * count
    present = np.flatnonzero(np.bincount(part.reshape(-1), minlength=anatomy.num_classes))
    for code in sorted(set(present.tolist()) - {0} - {s.code for s in chain}):
        kinds.append(anatomy[code].kind)
        fixed.append(code)
        ids[part == code] = len(kinds)
    origin = (occupied[0].start, occupied[1].start, occupied[2].start)
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    moments = measure(ids, len(kinds), spacing_mm, origin)
    found_all = Components(ids, occupied, shape, np.array(kinds, dtype="<U16"), np.array(fixed, np.int64), moments)
    return _without_islands(_largest(found_all), thresholds)


def _largest(components: Components) -> Components:
    """The ``MAX_REGIONS`` largest: a label map of noise has ten thousands, and what follows compares each with each."""
    surplus = len(components) - MAX_REGIONS
    if surplus <= 0:
        return components
    order = np.argsort(np.where(components.fixed_code > 0, np.inf, components.moments.voxels), kind="stable")
    keep = np.sort(order[surplus:])
    new_id = np.zeros(len(components) + 1, dtype=np.int64)
    new_id[keep + 1] = np.arange(1, len(keep) + 1)
    kept = components.renumbered(new_id, len(keep), components.kinds[keep], components.fixed_code[keep])
    return replace(kept, removed_islands=surplus)


def contacts(ids: np.ndarray, count: int) -> sparse.csr_matrix:
    """Faces shared by regions.

    Args:
        ids: (D, H, W) integers from 0 to ``count``.
        count: largest id.

    Returns:
        (count + 1, count + 1) symmetric counts of voxel faces between different ids.
    """
    total = sparse.csr_matrix((count + 1, count + 1), dtype=np.int64)
    for axis in range(ids.ndim):
        front = ids[(slice(None),) * axis + (slice(1, None),)]
        back = ids[(slice(None),) * axis + (slice(None, -1),)]
        differ = front != back
        pairs = (front[differ], back[differ])
        total += sparse.coo_matrix((np.ones(len(pairs[0]), np.int64), pairs), shape=total.shape).tocsr()
    return (total + total.T).tocsr()


def one_hot_shares(components: Components, labels: np.ndarray) -> np.ndarray:
    """Share of each label within each component: the evidence where there are no probabilities.

    Args:
        components: N regions.
        labels: (d, h, w) codes within ``components.box``.

    Returns:
        (N, largest code + 1) shares; rows sum to 1.
    """
    width = int(labels.max(initial=0)) + 1
    inside = components.ids > 0
    joint = (components.ids[inside].astype(np.int64) - 1) * width + labels[inside]
    counts = np.bincount(joint, minlength=len(components) * width).reshape(len(components), width)
    return counts / np.maximum(components.moments.voxels, 1)[:, None]


def _without_islands(components: Components, thresholds: LevelThresholds) -> Components:
    count = len(components)
    volumes = components.moments.volume_mm3
    small = np.zeros(count, dtype=bool)
    for kind in np.unique(components.kinds[components.fixed_code == 0]):
        of_kind = (components.kinds == kind) & (components.fixed_code == 0)
        limit = max(thresholds.island_mm3, thresholds.island_share * components.typical_volume_mm3(kind))
        small |= of_kind & (volumes < limit)
    if not small.any():
        return components
    new_id = np.zeros(count + 1, dtype=np.int64)
    new_id[1:][~small] = np.arange(1, (~small).sum() + 1)
    faces = contacts(components.ids, count)[1:][small].toarray()
    outer = np.concatenate([[True], ~small])  # the background and whole structures
    best = np.argmax(faces * outer, axis=1)
    share = faces[np.arange(len(faces)), best] / np.maximum(faces.sum(axis=1), 1)
    new_id[1:][small] = np.where(share >= thresholds.absorb_share, new_id[best], 0)
    kept = components.renumbered(new_id, int((~small).sum()), components.kinds[~small], components.fixed_code[~small])
    return replace(kept, removed_islands=components.removed_islands + int(small.sum()))
