"""The images of a series in the order of their slices: duplicates and strays dropped, places checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.inference.dicom.images import DicomImage
from cps4_monai.inference.dicom.series import DicomSeries
from cps4_monai.inference.dicom.weighting import plane_of

SPLIT = "move the files of one volume into a folder of their own, or convert it to NIfTI"
# Share of the distance between slices, and mm, by which one may lie off its place.
_OFF_SHARE, _OFF_MM = 0.05, 0.02
_SAME_DIRECTION, _SAME_PLACE_MM = 1e-2, 1e-3
_FEW_STRAYS = 0.2


def order_images(series: DicomSeries) -> tuple[list[DicomImage], list[str]]:
    """Images of a series' volume in their order, and what was dropped.

    Raises:
        InvalidVolumeError: their places are no single stack with even distances, only some have one, or their order is
            not told.
    """
    images, warnings = _without_duplicates(series.images)
    if any(image.orientation is None or image.position is None for image in images):
        _check_lacked_by_all(series.folder, images)
        return _by_number(series.folder, images), warnings
    images, told = _of_one_orientation(series.folder, images)
    warnings += told
    if len(images) < 2:
        return images, warnings
    normal = normal_of(images[0].orientation)
    places = np.array([image.position for image in images])
    order = np.argsort(places @ normal, kind="stable")
    images, places = [images[i] for i in order], places[order]
    _check_even(series.folder, images, places, normal)
    return images, warnings


def _without_duplicates(images: Sequence[DicomImage]) -> tuple[list[DicomImage], list[str]]:
    """The same image twice, as archives send it: one UID, and the same number and place."""
    first: dict[tuple[Any, ...], DicomImage] = {}
    dropped: list[DicomImage] = []
    for image in images:
        key = (image.uid or image.file, image.frame, image.number, image.position, image.orientation, image.shape)
        if first.setdefault(key, image) is not image:
            dropped.append(image)
    told = (
        [f"{len(dropped)} duplicates (same SOPInstanceUID and place) were dropped: {file_names(dropped)}"]
        if dropped
        else []
    )
    return list(first.values()), told


def _check_lacked_by_all(folder: Path, images: Sequence[DicomImage]) -> None:
    """A spacing is assumed for a series without geometry; of one that has it, a single bad header would void it all."""
    lacking = {
        "ImagePositionPatient": [image for image in images if image.position is None],
        "ImageOrientationPatient": [image for image in images if image.orientation is None],
    }
    for name, without in lacking.items():
        if 0 < len(without) < len(images):
            raise InvalidVolumeError(
                folder,
                f"no usable {name} in {len(without)} of {len(images)} images ({file_names(without)})",
                f"{name} in all of them, or in none, for which a spacing is assumed",
                "export the series again, or take these files out of the folder",
            )


def _by_number(folder: Path, images: list[DicomImage]) -> list[DicomImage]:
    numbers = [image.number for image in images]
    if len(images) > 1 and (None in numbers or len(set(numbers)) < len(numbers)):
        raise InvalidVolumeError(
            folder,
            "images without position or orientation, and without InstanceNumbers that order them",
            "ImagePositionPatient and ImageOrientationPatient of every image",
            "export the series again",
        )
    return sorted(images, key=lambda image: image.number or 0)


def _of_one_orientation(folder: Path, images: list[DicomImage]) -> tuple[list[DicomImage], list[str]]:
    """Images of the most frequent orientation; a few strays (a localizer's slice in the series) are left out."""
    groups: list[list[DicomImage]] = []
    for image in images:
        for group in groups:
            if _same_directions(image, group[0]):
                group.append(image)
                break
        else:
            groups.append([image])
    groups.sort(key=len, reverse=True)
    strays = [image for group in groups[1:] for image in group]
    if len(strays) > _FEW_STRAYS * len(images):
        counts = ", ".join(f"{len(group)} {plane_of(group[0].orientation)}" for group in groups)
        raise InvalidVolumeError(
            folder, f"images of several orientations in one series ({counts})", "one orientation", SPLIT
        )
    told = f"{file_names(strays)}: of another orientation than the other {len(groups[0])} images, passed over"
    return groups[0], [told] if strays else []


def _same_directions(image: DicomImage, other: DicomImage) -> bool:
    apart = np.array(image.orientation) - np.array(other.orientation)
    return bool(np.abs(apart).max() <= _SAME_DIRECTION)


def _check_even(folder: Path, images: Sequence[DicomImage], places: np.ndarray, normal: np.ndarray) -> None:
    """One image at each place, and the same step from each to the next.

    Raises:
        InvalidVolumeError: it is not so; the message names the places.
    """
    steps = np.diff(places, axis=0)
    same = np.abs(steps @ normal) < _SAME_PLACE_MM
    if same.any():
        raise _several_at_one_place(folder, images, steps, same)
    usual = np.median(steps, axis=0)
    length = float(np.linalg.norm(usual))
    off = np.linalg.norm(steps - usual, axis=1) > max(_OFF_SHARE * length, _OFF_MM)
    if off.any():
        told = "; ".join(
            f"{np.linalg.norm(steps[i]):.2f} mm from {_place(images[i])} to {_place(images[i + 1])}"
            for i in np.flatnonzero(off).tolist()
        )
        raise InvalidVolumeError(
            folder,
            f"uneven distances between slices: {told}, elsewhere {length:.2f} mm",
            "slices at even distances, none missing",
            "export the series again; put the slices of each volume into a folder of their own",
        )


def _several_at_one_place(
    folder: Path, images: Sequence[DicomImage], steps: np.ndarray, same: np.ndarray
) -> InvalidVolumeError:
    if (np.linalg.norm(steps[same], axis=1) > _SAME_PLACE_MM).any():
        found = "images side by side in one plane (several stations)"
    else:
        found = "several images at one place (echoes, time points or repetitions)"
    told: dict[str, list[str]] = {}
    for image in images:
        for name, value in image.told_apart:
            if value not in told.setdefault(name, []):
                told[name].append(value)
    differing = [f"{name} {', '.join(values)}" for name, values in told.items() if len(values) > 1]
    what = f"; they differ in {'; '.join(differing)}" if differing else ""
    first = int(np.flatnonzero(same)[0])
    example = f", for instance {_place(images[first])} and {_place(images[first + 1])}"
    return InvalidVolumeError(folder, f"{found}{example}{what}", "one image at each place", SPLIT)


def normal_of(orientation: Sequence[float] | None) -> np.ndarray:
    """Unit normal of a slice, LPS: row direction x column direction."""
    assert orientation is not None
    normal = np.cross(orientation[:3], orientation[3:])
    unit: np.ndarray = normal / np.linalg.norm(normal)
    return unit


def file_names(images: Sequence[DicomImage]) -> str:
    """Names of the files of images, each once."""
    return ", ".join(dict.fromkeys(image.file.name for image in images))


def _place(image: DicomImage) -> str:
    frame = f" frame {image.frame + 1}" if image.frame or image.number is None else ""
    return f"({', '.join(f'{v:.1f}' for v in image.position or ())}) in {image.file.name}{frame}"
