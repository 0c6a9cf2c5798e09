"""What became of one input of a run, and the order in which a person should look at them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cps4_monai.data.label_review import review_state
from cps4_monai.encoding import printable
from cps4_monai.levels.flags import ALARM, FLAGS, NOTE, of_kind


class Summary(NamedTuple):
    """What tables, pages and people want of a record again and again: small enough to be kept of every scan.

    Attributes:
        flags: what each flag says, by its name.
        warnings: about the scan.
        seconds: that it took, all parts together.
        codes: of the structures that were found, whole or cut.
        margin: nats per structure by which the numbering beats its shifts; None: not asked.
        anchored: by what the numbering is held, as the record has it.
        review: what a person said of it, see :func:`cps4_monai.data.label_review.review_state`.
    """

    flags: dict[str, str]
    warnings: list[str]
    seconds: float
    codes: tuple[int, ...]
    margin: float | None
    anchored: Any
    review: str


def summary_of(record: Mapping[str, Any]) -> Summary:
    """The summary of what a sidecar says; of an empty record, one that says nothing."""
    levels = record.get("Levels") or {}
    structures = record.get("Structures", [])
    return Summary(
        {str(flag["name"]): str(flag.get("detail") or flag["name"]) for flag in record.get("Flags", [])},
        list(record.get("Warnings", [])),
        float(sum(record.get("Seconds", {}).values())),
        tuple(structure["code"] for structure in structures if structure.get("state") in ("present", "cut")),
        levels.get("margin"),
        levels.get("anchored"),
        review_state(record),
    )


@dataclass(frozen=True)
class ScanOutcome:
    """What became of one scan.

    Attributes:
        source: the scan (the label map, where only that is known).
        name: ``subfolder/stem`` of its outputs.
        status: "done"; "kept": its label map was there already; "mask": only looked at; "skipped": no scan; "failed".
        reason: why it failed or was skipped; for "kept" and "done" a note, if any.
        label: its label map.
        picture: its picture, where there is one.
        record: what its sidecar says; empty for "failed" and "skipped".
        lacking: which copy for other programs was asked for and cannot be made of it, and why.
    """

    source: Path
    name: str
    status: str
    reason: str = ""
    label: Path | None = None
    picture: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lacking: str = ""

    @property
    def alarms(self) -> list[str]:
        """Names of the flags that question its result, gravest first."""
        return of_kind(ALARM, self.summary.flags)

    @property
    def notes(self) -> list[str]:
        """Names of the flags that say what the scan or the result is like, and are no reason to doubt it."""
        return of_kind(NOTE, self.summary.flags)

    @property
    def needs_a_look(self) -> bool:
        """Whether it failed, or has a flag that questions the result."""
        return self.status == "failed" or bool(self.alarms)

    @property
    def alarm_words(self) -> list[str]:
        """What its alarms say, gravest first."""
        return [self.summary.flags[name] for name in self.alarms]

    @cached_property
    def summary(self) -> Summary:
        """What is asked of its record again and again, read once."""
        return summary_of(self.record)

    @property
    def structures(self) -> Sequence[Mapping[str, Any]]:
        """Statistics of its structures, by code."""
        structures: Sequence[Mapping[str, Any]] = self.record.get("Structures", [])
        return structures

    @property
    def seconds(self) -> float:
        """Time that the scan took, all parts together."""
        return self.summary.seconds

    @property
    def warnings(self) -> list[str]:
        """The copy that it lacks, the note about a label map that was kept or replaced, and warnings about the scan."""
        note = [self.reason] if self.reason and self.status in ("kept", "done") else []
        return [*([self.lacking] if self.lacking else []), *note, *self.summary.warnings]


class StoredRecord(Mapping[str, Any]):
    """A record that stays in its sidecar and is read when it is looked at: of ten thousand, none is in memory.

    What tables and pages ask for more than once is in the :class:`Summary` of its outcome.

    Args:
        sidecar: JSON beside a label map.
    """

    def __init__(self, sidecar: Path) -> None:
        self.sidecar = sidecar

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __bool__(self) -> bool:
        return True  # no sidecar is empty: nothing need be read to know that

    @property
    def _content(self) -> dict[str, Any]:
        known = os.stat(self.sidecar)
        return _record_in(self.sidecar, known.st_mtime_ns, known.st_ino)


@lru_cache(maxsize=2)  # a summary and a row of a table ask for several values of a record
def _record_in(sidecar: Path, changed_ns: int, inode: int) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
    return record


def reason_of(error: Exception) -> str:
    """Why something failed: the message of an error that was foreseen, with its type before it for any other."""
    expected = isinstance(error, ValueError | OSError | ImportError)
    return str(error) if expected and str(error) else f"{type(error).__name__}: {error}"


def by_urgency(outcomes: Sequence[ScanOutcome]) -> list[ScanOutcome]:
    """Failures first, then by the gravest alarm, then by name; notes make nothing urgent."""

    order = list(FLAGS)

    def urgency(outcome: ScanOutcome) -> tuple[bool, int, str]:
        gravest = next(iter(outcome.alarms), None)
        place = len(order) if gravest is None else order.index(gravest) if gravest in FLAGS else -1
        return (outcome.status != "failed", place, outcome.name)

    return sorted(outcomes, key=urgency)


def look_lines(outcomes: Sequence[ScanOutcome], limit: int) -> list[str]:
    """How many results a person should look at, then the first of them with their alarms and warnings; a line each.

    Args:
        outcomes: of scans that have a label map.
        limit: how many are named.
    """
    alarmed = by_urgency([outcome for outcome in outcomes if outcome.alarms])
    lines = [f"{len(alarmed)} of {len(outcomes)} to look at{':' if alarmed else ', no alarm was raised'}"]
    lines += [
        f"  {printable(outcome.name)}: {', '.join(outcome.alarms)}"
        + (f" ({printable('; '.join(outcome.warnings))})" if outcome.warnings else "")
        for outcome in alarmed[:limit]
    ]
    return lines if len(alarmed) <= limit else [*lines, f"  and {len(alarmed) - limit} more, see the report"]
