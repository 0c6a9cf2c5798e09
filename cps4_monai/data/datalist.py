"""Datalists: which scans train, with or without their label, and which validate and test."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cps4_monai.data.entries import SIDES, Datalist, DatalistError, Entry, codes, structures
from cps4_monai.data.labeled_subsets import is_splits, labeled_choice, read_json, share_key
from cps4_monai.data.leaks import LeakError, check_contents, check_patients
from cps4_monai.data.spider_splits import read_splits
from cps4_monai.true_or_false import true_or_false

_KEYS = (*SIDES, "unannotated", "structures", "subsets")  # what changes the training where it is misspelt
_AUTO3DSEG = "testing"  # its name for the test, not read
_READ = {*_KEYS, "name", "image", "label", "labeled", "subject", "patient", "classes"}

__all__ = ["SIDES", "Datalist", "DatalistError", "Entry", "LeakError", "check_leaks", "load_datalist"]


def check_leaks(datalist: Datalist, content: bool = True) -> None:
    """Checks that no patient and, with ``content``, no image (by its voxels) is on two sides.

    Raises:
        LeakError: names both entries and their sides.
        InvalidVolumeError: an image cannot be read.
    """
    check_patients(datalist.sides)
    if content:
        check_contents(datalist.sides)


def load_datalist(
    path: str | Path,
    dataset_dir: str | Path | None = None,
    labeled_share: str | int | float | None = None,
    *,
    unlabeled_slices: bool = False,
    labeled_subjects: Sequence[str] | None = None,
    require: Sequence[str] = (),
    check_files: bool = True,
) -> Datalist:
    """Reads a datalist, ours or the ``splits.json`` of the derived SPIDER data, and checks it.

    Args:
        path: JSON file (see docs/data.md).
        dataset_dir: folder that the paths in the file are relative to; the file's own folder by default.
        labeled_share: percentage of the training subjects that count as labeled, a nested subset recorded in the
            file ("10"); the others are used without their label. None: every training entry that has a label.
        unlabeled_slices: also take the single slices of a ``splits.json`` as unlabeled training scans. A datalist of
            ours names all its unlabeled scans in ``training``, and has no other: a warning of the datalist says so.
        labeled_subjects: the training subjects that count as labeled, by name; overrides ``labeled_share``.
        require: parts that must have entries, see :meth:`Datalist.require`.
        check_files: check that every file is there.

    Raises:
        DatalistError: not readable, wrong form, a share that the file does not record, labeled subjects without label,
            missing files, or an empty part.
        LeakError: a patient on two sides.
    """
    path, unlabeled_slices = Path(str(path)), true_or_false(unlabeled_slices, "unlabeled_slices")
    content = read_json(path)
    folder = Path(str(dataset_dir)) if dataset_dir is not None else path.parent  # MONAI takes "2025" for a number
    share = None if labeled_share is None else share_key(labeled_share, path)
    chosen = labeled_choice(content, path, share, labeled_subjects)
    if is_splits(content):
        datalist = read_splits(content, folder, path, chosen, unlabeled_slices)
    else:
        datalist = _read_own(content, folder, path, chosen, whole=share is not None)
    if check_files:
        entries = [entry for side in SIDES for entry in getattr(datalist, side)]
        require_files([f for e in entries for f in (e.image, e.label) if f is not None], path, folder)
        refuse_repeated(entries, path)
    check_patients(datalist.sides)
    warnings = (*_warnings(datalist), *_unread(content), *_without_slices(content, unlabeled_slices))
    passed_over = len(content.get(_AUTO3DSEG) or ())
    datalist = replace(datalist, name=datalist.name or path.stem, warnings=warnings, path=path, passed_over=passed_over)
    datalist.require(*require)
    return datalist


def _read_own(
    content: Mapping[str, Any], folder: Path, path: Path, chosen: frozenset[str] | None, whole: bool
) -> Datalist:
    _refuse_misspelt(content, _KEYS, f"{path}: has")
    lists = {side: content.get(side, []) for side in SIDES}
    for side, entries in lists.items():
        if not isinstance(entries, list):
            raise DatalistError(f"{path}: {side!r} is a {type(entries).__name__}; expected a list of entries")
    uses_label: Callable[[Mapping[str, Any], str], bool]
    if chosen is None:
        uses_label = (lambda raw, subject: True) if whole else (lambda raw, subject: _is_labeled(raw))
    else:
        uses_label = lambda raw, subject: subject in chosen  # noqa: E731
    training = tuple(_entry(raw, folder, path, "training", uses_label) for raw in lists["training"])
    validation, test = (
        tuple(_entry(raw, folder, path, side, lambda raw, subject: True) for raw in lists[side]) for side in SIDES[1:]
    )
    return Datalist(
        training,
        validation,
        test,
        unannotated=codes(content, path),
        structures=structures(content, path),
        name=str(content.get("name", "")),
    )


def _refuse_misspelt(content: Mapping[str, Any], known: Sequence[str], where: str, likeness: float = 0.75) -> None:
    """Refuses a key that is nearly a known one which is not there; other keys are other tools'.

    Args:
        content: of the datalist, or of an entry.
        known: keys that are read.
        where: begins the message.
        likeness: ratio of :mod:`difflib` from which on two keys are alike.

    Raises:
        DatalistError: names both.
    """
    for key in content:
        lacking = [name for name in known if name not in content]
        near = difflib.get_close_matches(str(key), lacking, n=1, cutoff=likeness) if key not in _READ else []
        if near:
            raise DatalistError(f"{where} {key!r}, which is not read: did you mean {near[0]!r}? If not, rename it")


def _is_labeled(raw: Mapping[str, Any]) -> bool:
    """What an entry says of its label: used, unless ``labeled`` is false."""
    labeled = raw.get("labeled")
    return labeled is None or bool(labeled)


def _entry(
    raw: Any, folder: Path, path: Path, side: str, uses_label: Callable[[Mapping[str, Any], str], bool]
) -> Entry:
    if not isinstance(raw, dict) or not isinstance(raw.get("image"), str):
        raise DatalistError(f"{path}: {side!r} has the entry {raw!r}; expected an object with one file name as 'image'")
    _refuse_misspelt(raw, ["label"], f"{path}: {side!r} has, for {raw['image']},")
    _refuse_misspelt(raw, ["labeled"], f"{path}: {side!r} has, for {raw['image']},", likeness=0.9)
    label = raw.get("label")
    label = None if label == "" else label  # as tables export what is not there
    if label is None and raw.get("labeled") and side == "training":
        raise DatalistError(
            f"{path}: {side!r} has 'labeled' true for {raw['image']}, and no 'label'; expected the label map's file "
            "name as 'label', or no 'labeled'"
        )
    if label is not None and not isinstance(label, str):
        raise DatalistError(f"{path}: {side!r} has the label {label!r} for {raw['image']}; expected a file name")
    for name in (raw["image"], label or ""):
        if os.sep == "/" and re.match("[A-Za-z]:/", name) and not (folder / name).exists():
            raise DatalistError(
                f"{path}: {side!r} has {name}, whose drive letter is of Windows; expected paths of this system: make "
                f"them relative to {folder}, or to the folder that dataset_dir (--dataset-dir) names"
            )
    subject = str(raw["subject"])
    classes, labeled = raw.get("classes"), raw.get("labeled")
    if labeled not in (None, True, False):  # 1 and 0, too, as tables export them
        raise DatalistError(f"{path}: {side!r} has 'labeled' {labeled!r} for {raw['image']}; expected true or false")
    if classes is not None and not (isinstance(classes, list) and all(type(c) is int and c >= 0 for c in classes)):
        raise DatalistError(
            f"{path}: {side!r} has the classes {classes!r} for {raw['image']}; expected a list of class codes, e.g. "
            "[2, 3], or none"
        )
    used = label is not None and uses_label(raw, subject)
    return Entry(
        image=folder / raw["image"],
        label=folder / label if used and label is not None else None,
        subject=subject,
        classes=tuple(code for code in classes if code) if used and classes is not None else None,
        patient="" if raw.get("patient") is None else str(raw["patient"]),
    )


def require_files(files: Sequence[Path], path: str | Path, folder: str | Path, shown: int = 5) -> None:
    """Refuses a datalist of which files are missing.

    Args:
        files: that must be there.
        path: of the datalist, for the message.
        folder: that its paths are relative to.
        shown: missing files that are named.

    Raises:
        DatalistError: names them, or what are folders.
    """
    missing = [str(f) for f in files if not f.is_file()]
    folders = [name for name in missing if os.path.isdir(name)]
    if folders:
        raise DatalistError(
            f"{path}: names folders as files: {', '.join(folders[:shown])}; expected NIfTI files (.nii, .nii.gz)"
        )
    if missing:
        more = "" if len(missing) <= shown else f" and {len(missing) - shown} more"
        raise DatalistError(
            f"{path}: {len(missing)} of {len(files)} files are missing: {', '.join(missing[:shown])}{more}; expected "
            f"them under {folder}: correct the paths, or name their folder with dataset_dir (--dataset-dir)"
        )


def refuse_repeated(entries: Sequence[Entry], path: str | Path, shown: int = 5) -> None:
    """Refuses a datalist that lists an image twice.

    Raises:
        DatalistError: names the images.
    """
    repeated = [str(f) for f, n in Counter(e.image for e in entries).items() if n > 1]
    if repeated:
        raise DatalistError(f"{path}: images listed twice: {', '.join(repeated[:shown])}; expected each once")


def _warnings(datalist: Datalist) -> tuple[str, ...]:
    warnings = list(datalist.warnings)
    both = {e.patient for e in datalist.labeled} & {e.patient for e in datalist.unlabeled}
    if both:
        count = "1 patient is" if len(both) == 1 else f"{len(both)} patients are"
        warnings.append(f"{count} both labeled and unlabeled within training: {_some(both)}")
    return tuple(warnings)


def _unread(content: Mapping[str, Any]) -> list[str]:
    """Warnings about folds, which other tools make their validation sets of, and about their name of the test set."""
    folds = sum(isinstance(e, dict) and "fold" in e for side in SIDES for e in content.get(side, []))
    told = "'fold' is not read: put the entries of one fold under 'validation'"
    warnings = [f"{folds} entries have a fold; {told}"] if folds else []
    if _AUTO3DSEG in content:
        warnings.append(f"{_AUTO3DSEG!r} is not read: call the list 'test' if its scans have labels to score by")
    return warnings


def _without_slices(content: Mapping[str, Any], unlabeled_slices: bool) -> list[str]:
    """A warning, no error: shipped studies and overlays ask for single slices, and run on any datalist."""
    if not unlabeled_slices or content.get("unlabeled_slices"):
        return []
    return ["unlabeled_slices is true, but this datalist lists none: unlabeled are the scans of 'training' only"]


def _some(values: set[str], limit: int = 8) -> str:
    names = sorted(values)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
