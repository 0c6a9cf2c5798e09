"""What a person's correction makes of a label map and its sidecar: numbering, measures, flags, who said what."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.label_file import structures_alone
from cps4_monai.data.label_ownership import weights_sha256
from cps4_monai.data.label_review import ACCEPTED, CORRECTED, CORRECTIONS, REVIEW, WRONG
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.volume import Volume
from cps4_monai.inference.corrections import Correction
from cps4_monai.inference.slice_statistics import slice_statistics
from cps4_monai.levels import Flag, LevelThresholds, StructureStatistics, level_flags
from cps4_monai.levels.flag_calibration import FlagCalibration
from cps4_monai.levels.flags import ALARM
from cps4_monai.levels.renumber import ImpossibleShiftError, shift_to, shifted_codes
from cps4_monai.levels.statistics import Confidence, View

_OF_THE_FILE = ("GeneratedBy", "Sha256", "Replaces")


@dataclass(frozen=True)
class Corrected:
    """A label map as a correction makes it.

    Attributes:
        labels: (X, Y, Z) uint8.
        record: of its sidecar, without what is of the file.
        renumbered: whether the labels are others than before.
        edited: whether the label map had been edited by hand since its sidecar was written.
    """

    labels: np.ndarray
    record: dict[str, Any]
    renumbered: bool
    edited: bool


def corrected(
    correction: Correction, label: Volume, record: Mapping[str, Any], digest: str, anatomy: Anatomy
) -> Corrected:
    """Applies a correction.

    Args:
        correction: what is said of the label map.
        label: the label map.
        record: what its sidecar says.
        digest: SHA-256 of its file.
        anatomy: the classes.

    Raises:
        ImpossibleShiftError: a level out of range, a structure that is not there, or nothing that would change.
        ValueError: settings in the record that cannot be used.
    """
    present = [int(code) for code in np.unique(structures_alone(label.array)) if code]
    shift, table = _numbering(correction, present, _not_trained(record), anatomy)
    if not (table or correction.wrong or correction.accepted):
        raise ImpossibleShiftError(
            "this changes no level; expected a shift other than 0 or another name. Fix: say that the result is fine "
            "with --accept (in a file: 'accepted'), or that an outline is wrong with --wrong"
        )
    wrong = _wrong(correction, present, table, record, anatomy)
    lookup = np.arange(256, dtype=np.uint8)
    lookup[list(table)] = list(table.values())
    array, edited = lookup[label.array], record.get("Sha256") != digest
    new = {key: value for key, value in record.items() if key not in _OF_THE_FILE}
    if table or edited:
        new.update(_measured(replace(label, array=array), record, anatomy, edited))
    new["Flags"] = _flags(new.get("Flags", []), correction, wrong, anatomy)
    new[CORRECTIONS] = [*record.get(CORRECTIONS, []), _entry(correction, shift, table, digest, edited, record, anatomy)]
    new[REVIEW] = {"State": _state(correction, shift, wrong, record), "Wrong": wrong}
    return Corrected(array, new, bool(table), edited)


def limits_of(record: Mapping[str, Any]) -> tuple[LevelThresholds, FlagCalibration]:
    """Thresholds and calibration that a label map of ours was made with; the defaults for any other.

    Args:
        record: what its sidecar says.

    Raises:
        ValueError: settings that cannot be used.
    """
    settings = record.get("Settings") or {}
    return (
        LevelThresholds.from_dict(settings.get("LevelThresholds") or {}),
        FlagCalibration.from_dict(settings.get("FlagCalibration") or {}),
    )


def measured_again(
    label: Volume,
    record: Mapping[str, Any],
    anatomy: Anatomy,
    unannotated: Sequence[int],
    confidence: Mapping[int, Confidence] | None = None,
) -> tuple[StructureStatistics, ...]:
    """Statistics of a label map as it is now, by the view and the thresholds that its sidecar tells; voxels that nobody
    annotated (255) are no structure's.

    Args:
        label: the label map.
        record: what its sidecar says.
        anatomy: the classes.
        unannotated: codes that the training labels never show.
        confidence: by code, where it still holds.

    Raises:
        ValueError: settings or a view in the record that cannot be used.
    """
    grid = SagittalGrid.from_affine(label.shape, label.affine)
    return slice_statistics(
        np.ascontiguousarray(grid.to_slices(structures_alone(label.array))),
        grid,
        label.affine,
        anatomy,
        confidence=confidence,
        unannotated=unannotated,
        view=_view(record),
        thresholds=limits_of(record)[0],
    )


def _view(record: Mapping[str, Any]) -> View | None:
    """The part of the scan's slices that the network saw, as (first H, end H, first W, end W); None for all of them."""
    view = record.get("View")
    if view is None:
        return None
    if not (isinstance(view, list) and len(view) == 4 and all(type(place) is int for place in view)):
        raise ValueError(f"View is {view!r}; expected four whole numbers, or null. Fix: segment the scan again")
    first_row, end_row, first_column, end_column = view
    return first_row, end_row, first_column, end_column


def not_in_labels(record: Mapping[str, Any], label: Volume) -> list[int]:
    """Codes that the weights of a label map never had labels of, but for those that a person drew in it.

    Args:
        record: what its sidecar says.
        label: the label map as it is now.
    """
    return [code for code in _not_trained(record) if not (label.array == code).any()]


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
    return sorted({table.get(code, code) for code in (*before, *correction.wrong)} - {0})


def _measured(label: Volume, record: Mapping[str, Any], anatomy: Anatomy, edited: bool) -> dict[str, Any]:
    """What the new label map shows; the network's confidence and margin were of other labels.

    The traits, by which `unusual_contrast` is raised, are those of the network's outlines, and hold unless these were
    edited.
    """
    thresholds, calibration = limits_of(record)
    traits = None if edited else record.get("Traits")
    not_trained = not_in_labels(record, label)
    structures = measured_again(label, record, anatomy, not_trained)
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
        "Said": correction.said,
        "Shift": shift,
        "Renamed": {anatomy[old].name: anatomy[new].name for old, new in table.items()},
        "Before": {"Sha256": digest, "EditedByHand": edited, "Levels": record.get("Levels"), "Alarms": alarms},
        "WeightsSha256": weights_sha256(record),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a user of this number
        return "unknown"
