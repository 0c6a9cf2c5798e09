"""What a person said of a label map of ours, as its sidecar keeps it: corrected, accepted, or wrong in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.data.label_ownership import is_described, record_beside
from cps4_monai.encoding import printable
from cps4_monai.file_hash import file_sha256

REVIEW, CORRECTIONS, ORIGINAL = "Review", "Corrections", "Original"
ACCEPTED, CORRECTED, WRONG = "accepted", "corrected", "wrong"
STATES = (ACCEPTED, CORRECTED, WRONG)
TRUSTED = (ACCEPTED, CORRECTED)
NAMELESS = "unusual_contrast"  # the alarm under which names mean nothing


def review_state(record: Mapping[str, Any]) -> str:
    """One of ``STATES``, or "" where nobody looked.

    Args:
        record: what the sidecar says.
    """
    review = record.get(REVIEW)
    state = review.get("State") if isinstance(review, Mapping) else None
    return state if state in STATES else ""


def is_doubtful(record: Mapping[str, Any]) -> bool:
    """Whether a label map was numbered anew, but not accepted, while an alarm says that names mean nothing in it.

    Args:
        record: what the sidecar says.
    """
    flags = record.get("Flags", [])
    return review_state(record) == CORRECTED and any(flag.get("name") == NAMELESS for flag in flags)


def review_in_words(record: Mapping[str, Any]) -> str:
    """What a person said of a label map last, and who: "corrected by J. Doe"; "" where nobody looked.

    Args:
        record: what the sidecar says.
    """
    state, entries = review_state(record), record.get(CORRECTIONS) or []
    told = {ACCEPTED: "accepted", CORRECTED: "corrected", WRONG: "marked as wrong in parts"}
    by = str(entries[-1].get("By", "")) if entries else ""
    return f"{told[state]} by {printable(by) or 'a person'}" if state else ""


def changed_by_a_person(record: Mapping[str, Any]) -> bool:
    """Whether a person numbered the levels of a label map anew or edited it: corrections that say it is fine are none.

    Args:
        record: what the sidecar says.
    """
    return any(entry.get("Shift") or entry["Before"]["EditedByHand"] for entry in record.get(CORRECTIONS, []))


def reviewed_label(label_path: str | Path) -> tuple[str, dict[str, Any]]:
    """State and sidecar of a label map; "" where it is not the one that was reviewed, or none of ours."""
    record = record_beside(label_path)
    return (review_state(record) if is_described(label_path) else ""), record


def is_unreviewed_prediction(label_path: str | Path) -> bool:
    """Whether a label map is, byte for byte, one that this package wrote and no person corrected or accepted.

    Such a one is no ground truth, nor is one that :func:`is_doubtful`. A label map that was changed since it was
    written is, as a person edited it.
    """
    record = record_beside(label_path)
    if not record or not Path(label_path).is_file():
        return False
    digest = file_sha256(label_path)
    trusted = review_state(record) in TRUSTED and not is_doubtful(record)
    reviewed = digest == record.get("Sha256") and trusted
    return digest in (record.get("Sha256"), record.get("Replaces")) and not reviewed


def without_predictions(label_paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Label maps that may be ground truth, and those that are not (:func:`is_unreviewed_prediction`), in order."""
    found = [is_unreviewed_prediction(path) for path in label_paths]
    truth = [path for path, ours in zip(label_paths, found, strict=True) if not ours]
    return truth, [path for path, ours in zip(label_paths, found, strict=True) if ours]
