"""From a series' images to one stack: of one size and spacing, and where the header puts each voxel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.data.geometry import ASSUME, assumed_spacing
from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.inference.dicom.images import DicomImage
from cps4_monai.inference.dicom.order import SPLIT, file_names, normal_of, order_images
from cps4_monai.inference.dicom.series import DicomSeries

# Directions taken for images that give none: rows of a sagittal image run to posterior, columns to inferior.
_SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """The images of one volume in the order of its slices.

    Attributes:
        images: in order along the slices' normal, or by number where the header gives no places.
        affine: 4 x 4, indices (slice, column, row) to RAS+ mm.
        warnings: what was dropped or assumed.
    """

    images: tuple[DicomImage, ...]
    affine: np.ndarray
    warnings: tuple[str, ...]


def build_stack(series: DicomSeries, assume_spacing: Sequence[float] | float | None = None) -> Stack:
    """Orders a series' images and computes the affine from their positions.

    The distance between slices is that of the positions, never the slice thickness, unless there is one image only.
    Whether the axes are at right angles is not checked here.

    Args:
        series: with its images.
        assume_spacing: mm along left-right, front-back and up-down (or one number for all), used for what the header
            lacks only; images without a position are taken in the order of InstanceNumber, those without an orientation
            for sagittal ones.

    Raises:
        InvalidVolumeError: images of several sizes, spacings, orientations or several at one place; uneven distances;
            geometry that is missing and not assumed, or that only some images lack.
    """
    folder = series.folder
    images, warnings = order_images(series)
    _check_same(folder, images, lambda image: image.shape, "sizes", "rows x columns")
    _check_same(folder, images, lambda image: image.inverted, "photometric interpretations", "MONOCHROME1 or not")
    usual = images[0].pixel_spacing
    _check_same(
        folder,
        images,
        lambda image: usual if _close(image.pixel_spacing, usual) else image.pixel_spacing,
        "pixel spacings",
        "mm",
    )
    assumed = assumed_spacing(assume_spacing)
    missing = missing_geometry(images)
    if missing and assumed is None:
        raise InvalidVolumeError(
            folder,
            "; ".join(missing),
            "PixelSpacing, ImagePositionPatient and ImageOrientationPatient of every image",
            ASSUME,
        )
    affine, told = _affine(images, assumed)
    if missing:
        warnings.append(f"{'; '.join(missing)}: assumed {', '.join(told)}")
    return Stack(tuple(images), _LPS_TO_RAS @ affine, tuple(warnings))


def _check_same(
    folder: Path, images: Sequence[DicomImage], value_of: Callable[[DicomImage], Any], what: str, unit: str
) -> None:
    counts = Counter(map(value_of, images))
    if len(counts) == 1:
        return
    usual = counts.most_common(1)[0][0]
    others = [image for image in images if value_of(image) != usual]
    listed = ", ".join(f"{count} of {_words(value)}" for value, count in counts.most_common())
    raise InvalidVolumeError(
        folder,
        f"images of several {what} ({unit}: {listed}; unlike most: {file_names(others)})",
        "the same for every image",
        SPLIT,
    )


def missing_geometry(images: Sequence[DicomImage]) -> list[str]:
    """What the headers lack, in words; a single image also has to say how far slices lie apart."""
    lacking = {
        "PixelSpacing": [i for i in images if i.pixel_spacing is None],
        "ImagePositionPatient": [i for i in images if i.position is None],
        "ImageOrientationPatient": [i for i in images if i.orientation is None],
    }
    if len(images) == 1:
        lacking["SpacingBetweenSlices or SliceThickness"] = [i for i in images if i.slice_distance is None]
    return [f"no usable {name} in {len(some)} of {len(images)} images" for name, some in lacking.items() if some]


def _affine(images: Sequence[DicomImage], assumed: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """Indices (slice, column, row) to LPS mm, and what was assumed; ``assumed`` is set where something is missing."""
    told = []
    orientation = images[0].orientation
    if any(image.orientation is None for image in images) or orientation is None:
        orientation = _SAGITTAL
        told.append("sagittal images")
    directions = np.array([normal_of(orientation), orientation[:3], orientation[3:]]).T
    axes = np.abs(directions).argmax(axis=0)  # the patient's axis that each index runs along
    spacing = images[0].pixel_spacing
    if spacing is None:
        assert assumed is not None
        spacing = (assumed[axes[2]], assumed[axes[1]])
        told.append(f"{spacing[0]:g} x {spacing[1]:g} mm in plane")
    step, origin, more = _step(images, directions[:, 0], None if assumed is None else float(assumed[axes[0]]))
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([step, directions[:, 1] * spacing[1], directions[:, 2] * spacing[0]])
    affine[:3, 3] = origin
    return affine, [*told, *more]


def _step(
    images: Sequence[DicomImage], normal: np.ndarray, assumed: float | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """From one slice to the next and the place of the first, LPS mm, and what was assumed."""
    if any(image.position is None or image.orientation is None for image in images):
        assert assumed is not None
        return normal * assumed, np.zeros(3), [f"slices in the order of InstanceNumber, {assumed:g} mm apart"]
    first, last = np.array(images[0].position), np.array(images[-1].position)
    if len(images) > 1:
        return (last - first) / (len(images) - 1), first, []
    if images[0].slice_distance is not None:
        return normal * images[0].slice_distance, first, []
    assert assumed is not None
    return normal * assumed, first, [f"a slice of {assumed:g} mm"]


def _words(value: Any) -> str:
    return " x ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _close(spacing: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    return spacing is not None and other is not None and np.allclose(spacing, other, rtol=1e-3, atol=0)
