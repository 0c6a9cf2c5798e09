"""The images of one DICOM file: the file itself, or each frame of an enhanced one, and where the header puts them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.inference.dicom.tags import functional_group, numbers, text, whole_number

# What tells images of one place apart.
_VOLUME_TAGS = ("EchoTime", "EchoNumbers", "InversionTime", "TemporalPositionIdentifier", "ImageType")
_VOLUME_GROUPS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("FrameContentSequence", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MRImageFrameTypeSequence", "FrameType"),
)


@dataclass(frozen=True)
class DicomImage:
    """One slice: a file of a classic series, or a frame of an enhanced one. Lengths are mm in DICOM's axes (LPS).

    Attributes:
        file: that holds it.
        frame: its index among the frames of the file.
        uid: SOPInstanceUID of the file.
        number: InstanceNumber, or the frame's; None where the header gives none.
        shape: rows and columns.
        position: of the first pixel's centre; None where the header gives none, as below.
        orientation: directions of growing column and row index, six numbers.
        pixel_spacing: between rows, and between columns.
        slice_distance: SpacingBetweenSlices, or else SliceThickness.
        slope: of the stored values.
        intercept: likewise.
        dtype: of the stored values.
        inverted: low values are bright (MONOCHROME1).
        padding: lowest and highest stored value that mean no picture; None where no value does.
        told_apart: what tells images of one place apart: echo, time point, type.
    """

    file: Path
    frame: int
    uid: str
    number: int | None
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slice_distance: float | None
    slope: float
    intercept: float
    dtype: str
    inverted: bool
    padding: tuple[int, int] | None = None
    told_apart: tuple[tuple[str, str], ...] = ()


def images_of(path: Path, dataset: Any) -> Iterator[DicomImage]:
    """Images of a file: one, or one for each frame, whose values stand in its functional groups or in shared ones.

    Args:
        path: the file.
        dataset: its header.

    Raises:
        ValueError: frames and functional groups do not match, or a value is no number.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = whole_number(dataset.get("NumberOfFrames")) or 1
    if per_frame and len(per_frame) != count:
        raise ValueError(f"{len(per_frame)} functional groups for {count} frames")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    kind = _stored_kind(dataset)
    padding = _padding(dataset, kind)
    for index in range(count):
        groups = [g for g in (per_frame[index] if per_frame else None, shared) if g is not None]
        # Frames without groups of their own share the file's position, which then is not theirs.
        place = functional_group(groups, "PlanePositionSequence", dataset if count == 1 or per_frame else {})
        plane = functional_group(groups, "PlaneOrientationSequence", dataset)
        measures = functional_group(groups, "PixelMeasuresSequence", dataset)
        scale = functional_group(groups, "PixelValueTransformationSequence", dataset)
        distances = [numbers(measures.get(name), 1) for name in ("SpacingBetweenSlices", "SliceThickness")]
        slope, intercept = numbers(scale.get("RescaleSlope"), 1), numbers(scale.get("RescaleIntercept"), 1)
        spacing = numbers(measures.get("PixelSpacing"), 2)
        yield DicomImage(
            file=path,
            frame=index,
            uid=text(dataset, "SOPInstanceUID"),
            number=index + 1 if count > 1 else whole_number(dataset.get("InstanceNumber")),
            shape=(int(dataset.Rows), int(dataset.Columns)),
            position=numbers(place.get("ImagePositionPatient"), 3),
            orientation=_directions(plane.get("ImageOrientationPatient")),
            pixel_spacing=spacing if spacing and min(spacing) > 0 else None,
            slice_distance=next((mm[0] for mm in distances if mm and mm[0] > 0), None),
            slope=slope[0] if slope else 1.0,
            intercept=intercept[0] if intercept else 0.0,
            dtype=kind,
            inverted=dataset.get("PhotometricInterpretation") == "MONOCHROME1",
            padding=padding,
            told_apart=_told_apart(groups, dataset),
        )


def _stored_kind(dataset: Any) -> str:
    """NumPy's name for the type of the stored values; floating ones (parametric maps) have no BitsStored."""
    size = max(1, (whole_number(dataset.get("BitsAllocated")) or 16) // 8)
    if whole_number(dataset.get("BitsStored")) is None and size >= 4:
        return f"f{size}"
    return f"{'i' if whole_number(dataset.get('PixelRepresentation')) else 'u'}{size}"


def _padding(dataset: Any, kind: str) -> tuple[int, int] | None:
    """Stored values around the picture (PixelPaddingValue, up to PixelPaddingRangeLimit); integer kinds alone have one.

    Both may be written without their sign, or with one that the pixels do not have.
    """
    value = _stored_number(dataset.get("PixelPaddingValue"), kind)
    if value is None:
        return None
    limit = _stored_number(dataset.get("PixelPaddingRangeLimit"), kind)
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def _stored_number(value: Any, kind: str) -> int | None:
    """A tag of the pixels' own type, as a number of that type."""
    dtype = np.dtype(kind)
    if value in (None, "", b"") or dtype.kind == "f":
        return None
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else whole_number(value)
    if number is not None and dtype.itemsize == 2:
        number = int(np.array(number % 2**16, np.uint16).astype(dtype))
    fits = number is not None and np.iinfo(dtype).min <= number <= np.iinfo(dtype).max
    return number if fits else None


def _told_apart(groups: Sequence[Any], dataset: Any) -> tuple[tuple[str, str], ...]:
    told = [(name, str(dataset.get(name))) for name in _VOLUME_TAGS if dataset.get(name) not in (None, "")]
    for sequence, name in _VOLUME_GROUPS:
        value = functional_group(groups, sequence, {}).get(name)
        if value not in (None, ""):
            told.append((name, str(value)))
    return tuple(told)


def _directions(value: Any) -> tuple[float, ...] | None:
    """Two unit vectors at right angles to within half a degree, or None."""
    six = numbers(value, 6)
    if six is None:
        return None
    row, column = six[:3], six[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    across = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    return six if min(lengths) > 0.99 and max(lengths) < 1.01 and across < 0.01 else None
