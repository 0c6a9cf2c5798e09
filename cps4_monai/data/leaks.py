"""Leak check: no patient and no image on two sides of training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.data.entries import Entry
from cps4_monai.data.nifti_file import decode_voxels, open_nifti
from cps4_monai.scan_names import identify


class LeakError(ValueError):
    """The same patient or the same image stands on two sides of a split."""


DIGEST_VERSION = 2  # of what `voxel_digest` makes of the same file; kept ones of another version are made again


def voxel_digest(path: str | Path) -> str:
    """SHA-256 of a NIfTI file's shape and voxel values, so that a copy compressed, renamed or retyped is recognised.

    Values count as float32 where they fit, which is what most tools store what they have read as: values scaled by the
    header, written as float32 or float64, give the same digest, and so do whole numbers of any type.

    Raises:
        InvalidVolumeError: the file cannot be read.
    """
    content, _ = open_nifti(path)
    _, voxels = decode_voxels(content, path)
    with np.errstate(over="ignore"):
        narrow = voxels.astype(np.float32)
    fits = np.array_equal(np.isfinite(narrow), np.isfinite(voxels))
    voxels = (narrow if fits else voxels.astype(np.float64)) + 0.0  # no -0.0
    digest = hashlib.sha256(repr(voxels.shape).encode())
    digest.update(np.ascontiguousarray(voxels.T).data)
    return digest.hexdigest()


def check_patients(sides: Mapping[str, Sequence[Entry]]) -> None:
    """Checks that no patient is on two sides.

    Args:
        sides: name of a side (training, validation, test) -> its entries.

    Raises:
        LeakError: names the patients and both sides.
    """
    _refuse("patient", sides, {s: [(e.patient, e) for e in entries] for s, entries in sides.items()})


def patients_of(*sides: Sequence[Any]) -> list[set[str]]:
    """The patients of each side.

    Args:
        *sides: entries of a datalist, which says who is who, and dicts with the path ``image`` (MONAI Label's), of
            which the names of all sides together do, see :func:`cps4_monai.scan_names.identify`.
    """
    named = iter(identify([one["image"] for side in sides for one in side if isinstance(one, Mapping)]))
    return [{next(named).patient if isinstance(one, Mapping) else one.patient for one in side} for side in sides]


def check_contents(sides: Mapping[str, Sequence[Entry]], digest: Callable[[Path], str] = voxel_digest) -> None:
    """Checks that no image, by its voxels, is on two sides; reads each image file once.

    Args:
        sides: name of a side (training, validation, test) -> its entries.
        digest: image file -> digest of its voxels.

    Raises:
        LeakError: names the files and both sides.
        InvalidVolumeError: an image cannot be read.
    """
    _refuse("image content", sides, {s: [(digest(e.image), e) for e in es] for s, es in sides.items()})


def _refuse(what: str, sides: Iterable[str], keyed: Mapping[str, Sequence[tuple[str, Entry]]], shown: int = 5) -> None:
    seen: dict[str, tuple[str, Entry]] = {}
    leaks = []
    for side in sides:
        for key, entry in keyed[side]:
            first_side, first = seen.setdefault(key, (side, entry))
            if first_side != side:
                leaks.append(
                    f"{first.subject} ({first.image}) in {first_side} and {entry.subject} ({entry.image}) in {side}"
                )
    if leaks:
        more = "" if len(leaks) <= shown else f"; and {len(leaks) - shown} more"
        raise LeakError(
            f"the same {what} is on two sides of the split: {'; '.join(leaks[:shown])}{more}. "
            "Expected each patient on one side only: remove one of the two entries, or rebuild the datalist"
        )
