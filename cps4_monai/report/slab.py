"""Scans and their label maps as sagittal slices, for pictures and for the viewer; nothing is drawn here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cps4_monai.data.label_file import structures_alone
from cps4_monai.data.normalise import percentile_window, scale_to_window
from cps4_monai.data.sagittal import SagittalGrid


@dataclass(frozen=True)
class Slab:
    """A scan and its label maps as sagittal slices, for pictures.

    Attributes:
        scan: (D, H, W) intensities, as the scan has them; scaled slice by slice, because few of them are drawn.
        labels: label maps by title, each (D, H, W).
        spacing_mm: along D, H and W.
        window: intensities that become black and white.
    """

    scan: np.ndarray
    labels: dict[str, np.ndarray]
    spacing_mm: tuple[float, float, float]
    window: tuple[float, float]

    @property
    def depth(self) -> int:
        """Number of slices."""
        return len(self.scan)

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of a slice."""
        return self.scan.shape[1] * self.spacing_mm[1], self.scan.shape[2] * self.spacing_mm[2]

    def image(self, index: int) -> np.ndarray:
        """One slice (H, W) from 0 (black) to 1 (white), float32."""
        return in_window(self.scan[index], self.window)


def grey_window(image: np.ndarray, lower: float = 0.5, upper: float = 99.5) -> tuple[float, float]:
    """The intensities at two percentiles (of every 4th voxel along each axis), or the extremes where these coincide."""
    sample = image[tuple(slice(None, None, 4 if size > 16 else 1) for size in image.shape)]
    low, high = percentile_window(sample, lower, upper)
    return (low, high) if high > low else percentile_window(image, lower, upper)


def in_window(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Image scaled to 0 to 1 between two intensities, float32; of one intensity alone between its ends."""
    return scale_to_window(image, window if window[1] > window[0] else (float(image.min()), float(image.max())))


def sagittal_slab(image: np.ndarray, labels: dict[str, np.ndarray], affine: np.ndarray) -> Slab:
    """Volumes (X, Y, Z) in any orientation as slices for pictures.

    Raises:
        ValueError: a label map of another shape than the image.
    """
    grid = SagittalGrid.from_affine(image.shape, affine)
    slices = grid.to_slices(image)
    views = {title: grid.to_slices(label) for title, label in labels.items()}
    return Slab(slices, views, grid.spacing_mm, grey_window(slices))


def outline(label: np.ndarray) -> np.ndarray:
    """(H, W) -> bool: pixels with another code to the right, left, above or below."""
    edge = np.zeros(label.shape, dtype=bool)
    vertical, horizontal = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    return edge


def rims(label: np.ndarray) -> np.ndarray:
    """Codes (D, H, W) where a structure ends within its slice, and 0 inside of it."""
    codes = structures_alone(label)
    ends = np.stack([outline(image) for image in codes]) if len(codes) else np.zeros(codes.shape, bool)
    return np.where(ends, codes, 0).astype(codes.dtype)
