"""Label maps numbered anew, accepted or marked as wrong by a person: mask, sidecar and picture follow, and a way back.

The first label map and its sidecar stay beside it as hidden files (``.original-<name>``).
"""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.label_file import label_bytes
from cps4_monai.data.label_ownership import GENERATOR, is_described, sidecar_of, write_owned_label
from cps4_monai.data.label_review import ACCEPTED, CORRECTED, CORRECTIONS, ORIGINAL, REVIEW, WRONG
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.volume import Volume, read_volume
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.corrections import Correction
from cps4_monai.inference.hand_on import copies_again, write_copies
from cps4_monai.inference.masks import draw_mask, scans_of
from cps4_monai.inference.scan_files import ScanFiles, original_of
from cps4_monai.inference.segmentation import plain
from cps4_monai.inference.slice_statistics import slice_statistics
from cps4_monai.levels import Flag, LevelThresholds, StructureStatistics, level_flags
from cps4_monai.levels.flag_calibration import FlagCalibration
from cps4_monai.levels.flags import ALARM
from cps4_monai.levels.renumber import ImpossibleShiftError, shift_to, shifted_codes

_OF_THE_FILE = ("GeneratedBy", "Sha256", "Replaces")


class RelabelError(ValueError):
    """A correction that cannot be applied to a label map; the message names it, and says why and what to do."""


def relabel(label_path: str | Path, correction: Correction, anatomy: Anatomy = MRSPINESEG) -> dict[str, Any]:
    """Applies what a person said to a label map of ours: to it, to its sidecar, and to the picture and copies of it.

    Args:
        label_path: the label map, with its sidecar beside it. One that was edited by hand since is taken as it is,
            unless the correction says which label map was looked at.
        correction: what is said of it.
        anatomy: the classes.

    Returns:
        What the sidecar says now. A correction that was applied before changes nothing.

    Raises:
        RelabelError: no label map of ours, another one than was looked at, other weights, a shift that cannot be, a
            structure that is not there, or what an interrupted command left. Nothing is written then.
        ValueError: a copy that is there cannot be made again, see :func:`copies_again`. Nothing is written then.
        OSError: the folder cannot be written to.
    """
    path = Path(label_path)
    content, record = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    if _was_applied(correction, record, digest):
        return record
    record = _of_these_labels(path, record, digest)
    _check_same(path, correction, record, digest)
    label = _volume(path, record, anatomy)
    codes = np.unique(label.array)
    present = [int(code) for code in codes if code]
    try:
        shift, table = _numbering(correction, present, _not_trained(record), anatomy)
        wrong = _wrong(correction, present, table, record, anatomy)
    except ValueError as error:
        raise RelabelError(f"{path}: {error}") from error
    lookup = np.arange(256, dtype=np.uint8)
    lookup[list(table)] = list(table.values())
    array = lookup[label.array]
    edited = record.get("Sha256") != digest
    new = {key: value for key, value in record.items() if key not in _OF_THE_FILE}
    if table or edited:
        new.update(_measured(array, label, record, anatomy, edited))
    new["Flags"] = _flags(new.get("Flags", []), correction, wrong, anatomy)
    new[CORRECTIONS] = [*record.get(CORRECTIONS, []), _entry(correction, shift, table, digest, edited, record, anatomy)]
    new[REVIEW] = {"State": _state(correction, shift, wrong, record), "Wrong": wrong}
    copies = copies_again(_files(path), array, label.affine, anatomy, new) if table or edited else {}
    new[ORIGINAL] = _keep_original(path, content).name
    write_copies(copies)
    changed = label_bytes(path.name, array, label.header) if table else content
    write_owned_label(path, changed, plain(new), over=digest if edited else None)
    _draw_again(path, anatomy)
    return record_of(path)


def restore_original(label_path: str | Path, anatomy: Anatomy = MRSPINESEG) -> dict[str, Any]:
    """Takes all corrections of a label map back, byte for byte: label map, sidecar and picture; copies are made anew.

    Returns:
        What the sidecar says now.

    Raises:
        RelabelError: it was never corrected, or its original is gone.
        ValueError: a copy that is there cannot be made again, see :func:`copies_again`. Nothing is written then.
        OSError: the folder cannot be written to.
    """
    path = Path(label_path)
    kept, kept_sidecar = original_of(path), original_of(sidecar_of(path))
    if not kept.is_file() or not kept_sidecar.is_file():
        raise RelabelError(f"{path}: no {kept.name} beside it; expected the label map from before its first correction")
    record = record_of(path)
    if record and not _is_original(kept, record, path):
        raise RelabelError(
            f"{path}: {kept.name} beside it was not corrected to this label map; expected the one from before its "
            "first correction. Fix: delete it, the next correction keeps another"
        )
    record = json.loads(kept_sidecar.read_text(encoding="utf-8"))
    label = _volume(kept, record, anatomy)
    write_copies(copies_again(_files(path), label.array, label.affine, anatomy, record))
    # A kill between any two of these leaves a label map that one of the sidecars knows, and the originals.
    write_atomically(path, kept.read_bytes())
    write_atomically(sidecar_of(path), kept_sidecar.read_bytes())
    _draw_again(path, anatomy)
    kept.unlink()
    kept_sidecar.unlink()
    return record_of(path)


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Bytes and sidecar of a label map."""
    if not path.is_file():
        raise RelabelError(f"{path}: no such label map; expected one that 'cps4 segment' wrote")
    record = record_of(path)
    made_by = record.get("GeneratedBy")
    if not isinstance(made_by, list) or not made_by or made_by[0].get("Name") != GENERATOR:
        raise RelabelError(
            f"{path}: has no JSON of {GENERATOR} beside it, so that nothing is known of its weights and its scan; "
            "expected a label map that 'cps4 segment' wrote, with its JSON"
        )
    return path.read_bytes(), record


def record_of(path: Path) -> dict[str, Any]:
    """What the sidecar of a label map says; empty where there is none."""
    try:
        record = json.loads(sidecar_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _was_applied(correction: Correction, record: Mapping[str, Any], digest: str) -> bool:
    """Whether the last correction is this one: a file of corrections may be applied again after a kill."""
    entries = record.get(CORRECTIONS, [])
    if not entries or correction.label_sha256 is None or record.get("Sha256") != digest:
        return False
    last = entries[-1]
    return bool(last["Before"]["Sha256"] == correction.label_sha256 and last["Said"] == _said(correction))


def _of_these_labels(path: Path, record: dict[str, Any], digest: str) -> dict[str, Any]:
    """The record of the label map that is there, also where a kill left it with the record of its first correction.

    Raises:
        RelabelError: another command was interrupted: the record is of other labels.
    """
    if record.get("Sha256") == digest or record.get("Replaces") != digest:
        return record  # its own, or the label map was edited by hand since
    kept = original_of(path)
    if is_described(kept) and hashlib.sha256(kept.read_bytes()).hexdigest() == digest:
        return record_of(kept)
    raise RelabelError(
        f"{path}: found a JSON of labels that are not there, because a command was interrupted; expected one that "
        "describes the label map. Fix: take its corrections back with --undo and say them again; without any, run the "
        "same 'cps4 segment' again"
    )


def _check_same(path: Path, correction: Correction, record: Mapping[str, Any], digest: str) -> None:
    if correction.label_sha256 is not None and correction.label_sha256 != digest:
        raise RelabelError(
            f"{path}: is not the label map that was looked at (its SHA-256 is {digest[:12]}..., expected "
            f"{correction.label_sha256[:12]}...). Fix: make the page again with 'cps4 report' and look at it there"
        )
    weights = (record.get("Weights") or {}).get("Sha256")
    if correction.weights_sha256 is not None and correction.weights_sha256 != weights:
        raise RelabelError(
            f"{path}: was made with weights {str(weights)[:12]}..., the corrections are of "
            f"{correction.weights_sha256[:12]}.... Fix: apply them to the results that the page shows"
        )


def _volume(path: Path, record: Mapping[str, Any], anatomy: Anatomy) -> Volume:
    named = {s["code"]: s["name"] for s in record.get("Structures", [])}
    other = [name for code, name in named.items() if code >= len(anatomy) or anatomy[code].name != name]
    if other:
        raise RelabelError(
            f"{path}: its JSON names structures that the anatomy does not ({', '.join(other)}). Fix: give the anatomy "
            "of its weights with --anatomy"
        )
    spacing = record.get("Settings", {}).get("AssumeSpacing")
    return read_volume(path, is_label=True, num_classes=anatomy.num_classes, assume_spacing=spacing)


def _not_trained(record: Mapping[str, Any]) -> list[int]:
    return [s["code"] for s in record.get("Structures", []) if s.get("state") == "not_trained"]


def _numbering(
    correction: Correction, present: Sequence[int], not_trained: Sequence[int], anatomy: Anatomy
) -> tuple[int, dict[int, int]]:
    """Vertebral levels of the shift, and the new code of each structure that moves."""
    shift = correction.shift or 0
    if correction.level is not None:
        shift = shift_to(present, *correction.level, anatomy)
    return shift, shifted_codes(present, shift, anatomy, not_trained)


def _wrong(
    correction: Correction,
    present: Sequence[int],
    table: Mapping[int, int],
    record: Mapping[str, Any],
    anatomy: Anatomy,
) -> list[int]:
    """Codes, after the shift, of the structures that are marked as wrong: those of before too, until it is accepted."""
    missing = [code for code in correction.wrong if code not in present]
    if missing:
        names = [anatomy[c].name if 0 <= c < len(anatomy) else str(c) for c in missing]
        raise ImpossibleShiftError(
            f"{', '.join(names)} is marked as wrong, but not in the label map; expected one that is"
        )
    before = [] if correction.accepted else (record.get(REVIEW) or {}).get("Wrong", [])
    return sorted({table.get(code, code) for code in (*before, *correction.wrong)})


def _measured(
    array: np.ndarray, label: Volume, record: Mapping[str, Any], anatomy: Anatomy, edited: bool
) -> dict[str, Any]:
    """What the new label map shows; the network's confidence and margin were of other labels.

    The traits, by which `unusual_contrast` is raised, are those of the network's outlines, and hold unless these were
    edited.
    """
    grid = SagittalGrid.from_affine(label.shape, label.affine)
    slices = np.ascontiguousarray(grid.to_slices(array))
    settings = record.get("Settings", {})
    thresholds = LevelThresholds.from_dict(settings.get("LevelThresholds", {}))
    calibration = FlagCalibration.from_dict(settings.get("FlagCalibration", {}))
    traits = None if edited else record.get("Traits")
    not_trained = _not_trained(record)
    structures: tuple[StructureStatistics, ...] = slice_statistics(
        slices, grid, label.affine, anatomy, unannotated=not_trained, thresholds=thresholds
    )
    flags = level_flags(structures, anatomy, None, not_trained, thresholds, calibration, traits)
    return {
        "Levels": None,
        "Traits": traits,
        "Flags": [flag.to_dict() for flag in flags],
        "Structures": [structure.to_dict() for structure in structures],
    }


def _flags(
    flags: Sequence[Mapping[str, Any]], correction: Correction, wrong: Sequence[int], anatomy: Anatomy
) -> list[Mapping[str, Any]]:
    """Flags without the alarms that a person answered, with one for what the person marked."""
    kept = [flag for flag in flags if flag["name"] != "marked_wrong"]
    if correction.accepted:
        kept = [flag for flag in kept if flag["kind"] != ALARM]
    if not wrong:
        return kept
    names = tuple(anatomy[code].name for code in wrong)
    return [Flag("marked_wrong", f"{', '.join(names)}: outline marked as wrong by a person", names).to_dict(), *kept]


def _state(correction: Correction, shift: int, wrong: Sequence[int], record: Mapping[str, Any]) -> str:
    if wrong:
        return WRONG
    if correction.accepted:
        return ACCEPTED
    before = (record.get(REVIEW) or {}).get("State", "")
    return CORRECTED if shift or not before else before


def _said(correction: Correction) -> dict[str, Any]:
    said = {
        "Shift": correction.shift,
        "Level": None if correction.level is None else list(correction.level),
        "Wrong": list(correction.wrong),
        "Accepted": correction.accepted,
        "Comment": correction.comment,
    }
    return {key: value for key, value in said.items() if value}


def _entry(
    correction: Correction,
    shift: int,
    table: Mapping[int, int],
    digest: str,
    edited: bool,
    record: Mapping[str, Any],
    anatomy: Anatomy,
) -> dict[str, Any]:
    """Who said what and when, what it did, and what was before."""
    alarms = [flag["name"] for flag in record.get("Flags", []) if flag["kind"] == ALARM]
    return {
        "By": correction.by or _user(),
        "Date": correction.made or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "Said": _said(correction),
        "Shift": shift,
        "Renamed": {anatomy[old].name: anatomy[new].name for old, new in table.items()},
        "Before": {"Sha256": digest, "EditedByHand": edited, "Levels": record.get("Levels"), "Alarms": alarms},
        "WeightsSha256": (record.get("Weights") or {}).get("Sha256"),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a user of this number
        return "unknown"


def _keep_original(path: Path, content: bytes) -> Path:
    """Copies label map and sidecar aside before the first correction; takes the place of another label map's."""
    kept, record = original_of(path), record_of(path)
    if not record.get(CORRECTIONS) or not _is_original(kept, record, path):
        sidecar = sidecar_of(path)
        write_atomically(original_of(sidecar), sidecar.read_bytes())
        write_atomically(kept, content)
    return kept


def _is_original(kept: Path, record: Mapping[str, Any], path: Path) -> bool:
    """Whether the hidden label map is what a correction of this one began with, or this one itself."""
    if not kept.is_file():
        return False
    begun = [entry["Before"]["Sha256"] for entry in record.get(CORRECTIONS) or []]
    return file_sha256(kept) in (begun or [file_sha256(path)])


def _draw_again(path: Path, anatomy: Anatomy) -> None:
    """The picture of a label map that had one."""
    record, picture = record_of(path), _files(path).picture
    if picture.exists():
        scan = scans_of([path], path.parent).get(path)
        name = picture.name.removesuffix("_qc.png")
        draw_mask(picture, _volume(path, record, anatomy), scan, record, anatomy, name)


def _files(path: Path) -> ScanFiles:
    """The files beside a label map."""
    return ScanFiles.at(path.parent, path.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_dseg"))
