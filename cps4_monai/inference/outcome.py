"""What became of one input of a run, and the order in which a person should look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATUSES = ("failed", "done", "kept", "mask", "skipped")
# The first ones question the numbering or the labels; the last two say what part of the spine the scan shows.
FLAG_ORDER = (
    "no_spine_found",
    "level_ambiguous",
    "gap",
    "unusual_height",
    "low_confidence",
    "partial_width",
    "cut_structure",
)
NOTES = ("partial_width", "cut_structure")


@dataclass(frozen=True)
class ScanOutcome:
    """What became of one scan.

    Attributes:
        source: the scan (the label map, where only that is known).
        name: ``subfolder/stem`` of its outputs.
        status: "done"; "kept": its label map was there already; "mask": only looked at; "skipped": no scan; "failed".
        reason: why it failed or was skipped; for "kept" a note, if any.
        label: its label map.
        picture: its picture, where there is one.
        record: what its sidecar says; empty for "failed" and "skipped".
    """

    source: Path
    name: str
    status: str
    reason: str = ""
    label: Path | None = None
    picture: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def flags(self) -> list[str]:
        """Names of its flags, gravest first."""
        names = [str(flag["name"]) for flag in self.record.get("Flags", [])]
        return sorted(names, key=lambda n: FLAG_ORDER.index(n) if n in FLAG_ORDER else len(FLAG_ORDER))

    @property
    def needs_a_look(self) -> bool:
        """Whether it failed, or has a flag that questions the result."""
        return self.status == "failed" or any(flag not in NOTES for flag in self.flags)

    @property
    def structures(self) -> Sequence[Mapping[str, Any]]:
        """Statistics of its structures, by code."""
        return self.record.get("Structures", [])

    @property
    def seconds(self) -> float:
        """Time that the scan took, all parts together."""
        return float(sum(self.record.get("Seconds", {}).values()))

    @property
    def warnings(self) -> list[str]:
        """Warnings about the scan, and the note about a label map that was kept."""
        note = [self.reason] if self.reason and self.status == "kept" else []
        return [*note, *self.record.get("Warnings", [])]


def reason_of(error: Exception) -> str:
    """Why something failed: the message of an error that was foreseen, with its type before it for any other."""
    expected = isinstance(error, ValueError | OSError | ImportError)
    return str(error) if expected and str(error) else f"{type(error).__name__}: {error}"


def by_urgency(outcomes: Sequence[ScanOutcome]) -> list[ScanOutcome]:
    """Failures first, then by the gravest flag, then by name."""

    def urgency(outcome: ScanOutcome) -> tuple[int, int, str]:
        flags = [FLAG_ORDER.index(f) for f in outcome.flags if f in FLAG_ORDER]
        return (outcome.status != "failed", min(flags, default=len(FLAG_ORDER)), outcome.name)

    return sorted(outcomes, key=urgency)
