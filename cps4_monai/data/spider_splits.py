"""The `splits.json` of the derived SPIDER data, read as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cps4_monai.data.entries import Datalist, DatalistError, Entry, codes

LISTS = ("train", "val", "test", "unlabeled_only")


def read_splits(
    content: Mapping[str, Any], folder: Path, path: Path, chosen: frozenset[str] | None, unlabeled_slices: bool
) -> Datalist:
    """Datalist of a ``splits.json``: ``volumes/<subject>_T2w.nii.gz`` with ``_dseg`` labels, and ``slices/``.

    Training subjects outside the labeled subset, the volumes of ``unlabeled_only`` and, if asked for, the single
    slices of ``unlabeled_slices`` are unlabeled.

    Args:
        content: the file's content.
        folder: folder with ``volumes`` and ``slices``.
        path: the file, for messages.
        chosen: labeled subjects; None takes all of ``train``.
        unlabeled_slices: take the single slices too.

    Raises:
        DatalistError: a list is missing, or a labeled subject is not in ``train``.
    """
    for key in LISTS:
        if not isinstance(content.get(key, []), list):
            raise DatalistError(f"{path}: {key!r} is a {type(content[key]).__name__}; expected a list of subjects")
    train = content["train"]
    labeled = set(train) if chosen is None else chosen
    outside = sorted(labeled - set(train))
    if outside:
        raise DatalistError(f"{path}: labeled subjects {outside} are not in 'train'; expected a subset of it")

    def volume(subject: str, with_label: bool) -> Entry:
        label = folder / "volumes" / f"{subject}_dseg.nii.gz" if with_label else None
        return Entry(folder / "volumes" / f"{subject}_T2w.nii.gz", label, subject)

    training = [volume(s, s in labeled) for s in train]
    training += [volume(s, False) for s in content.get("unlabeled_only", [])]
    if unlabeled_slices:
        slices = content.get("unlabeled_slices", [])
        training += [Entry(folder / "slices" / f"{s}_T2w.nii.gz", None, s) for s in slices]
    return Datalist(
        training=tuple(training),
        validation=tuple(volume(s, True) for s in content.get("val", [])),
        test=tuple(volume(s, True) for s in content.get("test", [])),
        unannotated=codes(content, path),
        name="SPIDER",
    )
