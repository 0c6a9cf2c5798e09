"""Which training subjects count as labeled: recorded shares, names given outright, and rotation by seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.data.entries import SIDES, DatalistError, chosen_subset, share_size
from cps4_monai.encoding import path_text
from cps4_monai.scan_names import identify, patient_of

# What other programs call the sides; a list that nobody reads would be lost in silence.
_OTHERS_NAMES = {"train": "training", "val": "validation", "valid": "validation"}


def read_json(path: Path) -> dict[str, Any]:
    """Content of a datalist, ours or a ``splits.json``; in UTF-8 or UTF-16, with or without byte-order mark.

    Entries of ours come back as objects; where they do not say ``subject`` and ``patient``, these are told from the
    file names of all entries, see :func:`cps4_monai.scan_names.identify`. Paths of Windows get forward slashes.

    Raises:
        DatalistError: not readable, or of another form.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatalistError(
            f"{path}: cannot be read as a datalist ({error}); expected a JSON file. Fix: name it "
            "where it lies now (--datalist), or make one with 'cps4 datalist'"
        ) from error
    if isinstance(content, dict) and is_splits(content):
        return content
    if not isinstance(content, dict) or not any(k in content for k in (*SIDES, *_OTHERS_NAMES)):
        holds = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DatalistError(
            f"{path}: found {holds}; expected an object with the lists {list(SIDES)}: make one with 'cps4 datalist'"
        )
    for name, ours in _OTHERS_NAMES.items():
        if isinstance(content.get(name), list):
            raise DatalistError(f"{path}: found the list {name!r}; expected {ours!r}: rename it")
    return _with_subjects(content)


def is_splits(content: Mapping[str, Any]) -> bool:
    """Whether a datalist is the ``splits.json`` of the derived SPIDER data."""
    return "train" in content and "labeled" in content


def _with_subjects(content: dict[str, Any]) -> dict[str, Any]:
    lists = {side: content[side] for side in SIDES if isinstance(content.get(side), list)}
    content |= {side: [_as_object(raw) for raw in entries] for side, entries in lists.items()}
    entries = [raw for side in lists for raw in content[side] if isinstance(raw, dict) and "image" in raw]
    entries = [raw for raw in entries if isinstance(raw["image"], str)]
    for raw, who in zip(entries, identify([raw["image"] for raw in entries]), strict=True):
        if raw.get("subject") in (None, ""):
            raw["subject"] = who.subject
            if raw.get("patient") in (None, ""):
                raw["patient"] = who.patient
    return content


def _as_object(raw: Any) -> Any:
    if isinstance(raw, str):
        raw = {"image": raw}
    if not isinstance(raw, dict):
        return raw
    return {key: _local(value) if key in ("image", "label") else value for key, value in raw.items()}


def _local(path: Any) -> Any:
    """A path as this system writes it: on Windows either slash will do, elsewhere a backslash is no separator."""
    if not isinstance(path, str):
        return path
    return path_text(path if os.sep == "\\" else path.replace("\\", "/"))


def share_key(share: str | int | float, path: Path) -> str:
    """A share as datalists write it: 10, 10.0 and "10%" are "10".

    Raises:
        DatalistError: no number.
    """
    try:
        number = float(str(share).strip().removesuffix("%"))
    except ValueError as error:
        raise DatalistError(f"{path}: labeled share {share!r}; expected a percentage, e.g. 10") from error
    return f"{number:g}"


def labeled_choice(
    content: Mapping[str, Any], path: Path, share: str | None, subjects: Sequence[str] | None
) -> frozenset[str] | None:
    """Subjects that count as labeled; None: all that the file calls labeled, or, at 100 %, all that have a label.

    Args:
        content: of the datalist.
        path: of the datalist, for messages.
        share: one of the recorded shares; None: no choice.
        subjects: names, which override the share.

    Raises:
        DatalistError: a share that is not recorded, or a name that is no labeled training subject.
    """
    subsets = _subsets(content, path)
    if subjects is not None:
        known = labeled_order(content, path)
        wrong = [name for name in subjects if name not in known]
        if wrong or not subjects:
            raise DatalistError(
                f"{path}: labeled_subjects are {list(subjects)}; expected at least one, each a training subject with a "
                f"label: {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}"
            )
        return frozenset(subjects)
    if share is None or (share == "100" and share not in subsets):
        return None
    chosen, known = chosen_subset(subsets, share, path), labeled_order(content, path)
    if "training" in content and (wrong := sorted(set(chosen) - set(known))):
        raise DatalistError(
            f"{path}: 'subsets' of {share} names {', '.join(wrong[:8])}; expected training subjects with a label. Fix: "
            "take these names out, or list the subjects with their labels under 'training'"
        )
    return frozenset(chosen)


def labeled_order(content: Mapping[str, Any], path: Path) -> list[str]:
    """All training subjects that have a label: recorded subsets first, small before large, then as the file lists them.

    Raises:
        DatalistError: lists or subsets of another form.
    """
    if is_splits(content):
        listed = list(content["train"])
    else:
        listed = [
            str(raw["subject"])
            for raw in content.get("training", [])
            if isinstance(raw, Mapping) and raw.get("label") and raw.get("subject") not in (None, "")
        ]
    subsets = _subsets(content, path)
    nested = [name for share in sorted(subsets, key=share_size) for name in subsets[share]]
    known = set(listed)
    return list(dict.fromkeys([*(name for name in nested if name in known), *listed]))


def rotated_subset(content: Mapping[str, Any], path: Path, share: str, turn: int) -> list[str]:
    """As many labeled patients as the recorded share has, further along :func:`labeled_order` with each turn.

    Turn 0 is the recorded subset itself where the subsets are nested and hold their patients whole. A patient comes
    with all scans that have a label. The subsets of two turns share no patient as long as their sizes add up to no more
    than all patients; after that the order starts over.

    Args:
        content: of the datalist.
        path: of the datalist, for messages.
        share: one of the recorded shares.
        turn: 0, 1, ...: usually the seed.

    Raises:
        DatalistError: the share is not recorded.
    """
    patients = _patients(content)
    scans: dict[str, list[str]] = {}
    for name in labeled_order(content, path):
        scans.setdefault(patients(name), []).append(name)
    order = list(scans)
    size = len(set(map(patients, chosen_subset(_subsets(content, path), share, path))))
    return [name for place in range(size) for name in scans[order[(turn * size + place) % len(order)]]]


def has_labels(content: Mapping[str, Any], side: str) -> bool:
    """Whether a side of a datalist, or the list of a ``splits.json`` for it, has a labeled entry."""
    if is_splits(content):
        return bool(content.get({"training": "train", "validation": "val"}.get(side, side)))
    return any(isinstance(raw, Mapping) and raw.get("label") for raw in content.get(side) or [])


def _patients(content: Mapping[str, Any]) -> Callable[[str], str]:
    """Subject -> patient, as the entries of ``training`` say, or its own name does."""
    entries = [] if is_splits(content) else content.get("training", [])
    known = {
        str(raw["subject"]): str(raw["patient"]) for raw in entries if isinstance(raw, Mapping) and raw.get("patient")
    }
    return lambda name: known.get(name) or patient_of(name)


def _subsets(content: Mapping[str, Any], path: Path) -> dict[str, Sequence[str]]:
    key = "labeled" if is_splits(content) else "subsets"
    subsets = content.get(key, {})
    if not isinstance(subsets, dict):
        raise DatalistError(f"{path}: {key!r} is a {type(subsets).__name__}; expected an object share -> subjects")
    for share, names in subsets.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DatalistError(f"{path}: {key!r} of {share!r} is {names!r}; expected a list of subjects' names")
    keyed = {_share_or_name(share): names for share, names in subsets.items()}
    if len(keyed) < len(subsets):
        raise DatalistError(f"{path}: {key!r} has {', '.join(subsets)}, two of which are one share; expected each once")
    return keyed


def _share_or_name(text: str) -> str:
    """A share as :func:`share_key` writes it; other names of subsets stay, and nobody can ask for them."""
    try:
        return share_key(text, Path())
    except DatalistError:
        return text
