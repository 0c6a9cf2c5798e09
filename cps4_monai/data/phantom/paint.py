"""Painting by covered share, and the T2-weighted signals of the tissues."""

from __future__ import annotations

import numpy as np

from cps4_monai.data.phantom.fields import Fields

# Signal relative to cerebrospinal fluid, as seen in lumbar T2w turbo spin echo.
CSF, CORD, ROOTS, FAT, MUSCLE, CORTEX, ANNULUS, VESSEL = 1.0, 0.42, 0.5, 0.75, 0.12, 0.03, 0.08, 0.03


def paint(image: np.ndarray, share: np.ndarray, value: np.ndarray | float) -> None:
    """Lays ``value`` over ``image`` in place, by the share, 0 to 1, of each pixel that it covers."""
    image += share * (value - image)


def paint_bone(
    fields: Fields, image: np.ndarray, inside: np.ndarray, marrow: np.ndarray | float, cortex_mm: float = 1.2
) -> None:
    """Lays a bone over the image: dark cortex around marrow; ``inside`` is the distance into it in mm."""
    paint(image, fields.cover(inside + 0.5), CORTEX)
    paint(image, fields.cover(inside - cortex_mm), marrow)


def lowest(*distances: np.ndarray | float) -> np.ndarray:
    """Intersection of shapes given by their distances inwards."""
    result = np.asarray(distances[0])
    for distance in distances[1:]:
        result = np.minimum(result, distance)
    return result


def rounded_box(a: np.ndarray, half_a: np.ndarray | float, b: np.ndarray, half_b: float, radius: float) -> np.ndarray:
    """Distance in mm into a box with round corners, centred at a = b = 0; negative outside."""
    over_a, over_b = np.abs(a) - half_a + radius, np.abs(b) - half_b + radius
    corner = np.hypot(np.maximum(over_a, 0), np.maximum(over_b, 0))
    return radius - corner - np.minimum(np.maximum(over_a, over_b), 0)
