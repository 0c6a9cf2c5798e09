"""What a person said of a label map of ours, as its sidecar keeps it: corrected, accepted, or wrong in parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cps4_monai.data.label_ownership import is_described, sidecar_of

REVIEW, CORRECTIONS, ORIGINAL = "Review", "Corrections", "Original"
ACCEPTED, CORRECTED, WRONG = "accepted", "corrected", "wrong"
STATES = (ACCEPTED, CORRECTED, WRONG)
TRUSTED = (ACCEPTED, CORRECTED)


def review_state(record: Mapping[str, Any]) -> str:
    """One of ``STATES``, or "" where nobody looked.

    Args:
        record: what the sidecar says.
    """
    review = record.get(REVIEW)
    state = review.get("State") if isinstance(review, Mapping) else None
    return state if state in STATES else ""


def review_in_words(record: Mapping[str, Any]) -> str:
    """What a person said of a label map last, and who: "corrected by J. Doe"; "" where nobody looked.

    Args:
        record: what the sidecar says.
    """
    state, entries = review_state(record), record.get(CORRECTIONS) or []
    told = {ACCEPTED: "accepted", CORRECTED: "corrected", WRONG: "marked as wrong in parts"}
    by = str(entries[-1].get("By", "")) if entries else ""
    return f"{told[state]} by {''.join(c if c.isprintable() else '?' for c in by) or 'a person'}" if state else ""


def changed_by_a_person(record: Mapping[str, Any]) -> bool:
    """Whether a person numbered the levels of a label map anew or edited it: corrections that say it is fine are none.

    Args:
        record: what the sidecar says.
    """
    return any(entry.get("Shift") or entry["Before"]["EditedByHand"] for entry in record.get(CORRECTIONS, []))


def reviewed_label(label_path: str | Path) -> tuple[str, dict[str, Any]]:
    """State and sidecar of a label map; "" where it is not the one that was reviewed, or none of ours."""
    try:
        record = json.loads(sidecar_of(label_path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "", {}
    if not isinstance(record, dict):
        return "", {}
    return (review_state(record) if is_described(label_path) else ""), record
