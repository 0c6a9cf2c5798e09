"""Made-up errors of level labels, of the kinds that networks make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cps4_monai.anatomy import Anatomy


def soft_scores(labels: np.ndarray, num_classes: int, certainty: float = 0.8, slip: int = 2) -> np.ndarray:
    """Probabilities around a label map: ``certainty`` for the label, the rest for the codes that it is mistaken for.

    Args:
        labels: (D, H, W) codes.
        num_classes: C.
        certainty: probability of the label, in (0, 1].
        slip: how many codes on each side share half of the rest (neighbouring levels have neighbouring codes); the
            other half goes to the background.

    Returns:
        (D, C, H, W) float32, summing to 1 over C.
    """
    table = np.zeros((num_classes, num_classes), dtype=np.float32)
    for code in range(num_classes):
        near = [c for c in range(code - slip, code + slip + 1) if 0 < c < num_classes and c != code] if code else []
        table[code, code] = certainty
        table[code, near] += 0.5 * (1.0 - certainty) / max(len(near), 1)
        table[code, 0] += 1.0 - table[code].sum()
    return np.moveaxis(table[labels], -1, 1)


def shift_levels(labels: np.ndarray, anatomy: Anatomy, first_order: int, last_order: int, by: int = 2) -> np.ndarray:
    """Rename the structures of a stretch of the spine, as when the network loses count.

    Args:
        labels: (D, H, W) codes.
        anatomy: the structures.
        first_order: lowest order renamed.
        last_order: highest order renamed, included.
        by: how many places along the spine (2: one vertebral level); beyond the table the label becomes background.
    """
    by_order = {s.order: s.code for s in anatomy.along_spine()}
    lut = np.arange(anatomy.num_classes)
    for order, code in by_order.items():
        if order is not None and first_order <= order <= last_order:
            lut[code] = by_order.get(order + by, 0)
    return lut[labels].astype(labels.dtype)


def split_structure(
    labels: np.ndarray, code: int, other: int, rng: np.random.Generator, along: str = "height"
) -> np.ndarray:
    """Give a part of a structure another label: its upper part, or some of its slices.

    Args:
        labels: (D, H, W) codes.
        code: the structure.
        other: label of the part.
        rng: draws the share, 20 to 45 %.
        along: "height" or "slices".
    """
    axis = {"height": 1, "slices": 0}[along]
    place = np.nonzero(labels == code)
    limit = np.quantile(place[axis], rng.uniform(0.2, 0.45))
    part = place[axis] <= limit
    result = labels.copy()
    result[place[0][part], place[1][part], place[2][part]] = other
    return result


def add_islands(labels: np.ndarray, codes: Sequence[int], rng: np.random.Generator, count: int = 12) -> np.ndarray:
    """Put small boxes of random labels anywhere, structures included.

    Args:
        labels: (D, H, W) codes.
        codes: labels to draw from.
        rng: draws places, sizes (1 to 2 slices, 2 to 5 pixels) and labels.
        count: how many.
    """
    result = labels.copy()
    for _ in range(count):
        size = (int(rng.integers(1, 3)), int(rng.integers(2, 6)), int(rng.integers(2, 6)))
        start = [int(rng.integers(0, max(1, n - s))) for n, s in zip(labels.shape, size, strict=True)]
        box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        result[box] = codes[int(rng.integers(len(codes)))]
    return result


def fuse_bodies(labels: np.ndarray, disc: int, body: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Let a body's label leak over the disc above or below it in some columns, so that two bodies touch.

    Args:
        labels: (D, H, W) codes.
        disc: the disc overrun.
        body: label that overruns it.
        share: share of the disc's anterior-posterior columns, in [0, 1]; 1 removes the disc.
        rng: draws the first column.
    """
    result = labels.copy()
    place = np.nonzero(labels == disc)
    low, high = place[2].min(), place[2].max() + 1
    width = int(np.ceil(share * (high - low)))
    start = low + int(rng.integers(0, high - low - width + 1))
    part = (place[2] >= start) & (place[2] < start + width)
    result[place[0][part], place[1][part], place[2][part]] = body
    return result
