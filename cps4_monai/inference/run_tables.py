"""Tables of a run: a line for each scan, for each structure of each scan, and for each failure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.anatomy import Anatomy
from cps4_monai.encoding import text_bytes
from cps4_monai.inference.outcome import ScanOutcome
from cps4_monai.levels.flags import names_are_trusted
from cps4_monai.report.label_tables import label_tables

SCAN_COLUMNS = (
    *("scan", "status", "alarms", "notes", "lowest", "topmost", "structures", "margin", "anchored", "review"),
    *("warnings", "seconds", "source", "label"),
)
STRUCTURE_COLUMNS = (
    *("scan", "code", "name", "kind", "state", "cut_at", "lateral", "volume_ml", "centroid_x_mm", "centroid_y_mm"),
    *("centroid_z_mm", "centroid_i", "centroid_j", "centroid_k", "height_mm", "anterior_height_mm"),
    *("middle_height_mm", "posterior_height_mm", "disc_height_mm", "lordosis_deg", "confidence"),
    "outline_confidence",
)
_SIZES = ("anterior_height_mm", "middle_height_mm", "posterior_height_mm", "disc_height_mm", "lordosis_deg")
FAILURE_COLUMNS = ("source", "scan", "reason")
SCANS, FAILURES, SKIPPED = "scans.csv", "failures.csv", "skipped.csv"
TABLES = (
    *("structures.csv", SCANS, FAILURES, SKIPPED),
    *("labels.ctbl", "labels.csv", "labels_itksnap.txt", "dseg.tsv"),
)


def run_tables(outcomes: Sequence[ScanOutcome], anatomy: Anatomy, folder: Path) -> dict[str, bytes]:
    """Contents of the run's tables by file name (``TABLES``).

    Args:
        outcomes: of all inputs.
        anatomy: the classes.
        folder: that the tables will lie in; label maps in it are named from there, so that it can be moved as a whole.
    """
    structures, scans = _Csv(STRUCTURE_COLUMNS), _Csv(SCAN_COLUMNS)
    unsegmented = {"failed": _Csv(FAILURE_COLUMNS), "skipped": _Csv(FAILURE_COLUMNS)}
    for outcome in outcomes:  # one pass: a record is read for all tables at once
        if outcome.status != "skipped":
            scans.add([scan_row(outcome, anatomy, folder)])
            structures.add(structure_row(outcome, structure) for structure in outcome.structures)
        if outcome.status in unsegmented:
            row = {"source": outcome.source, "scan": outcome.name, "reason": outcome.reason}
            unsegmented[outcome.status].add([row])
    texts = {
        "structures.csv": structures.text,
        SCANS: scans.text,
        FAILURES: unsegmented["failed"].text,
        SKIPPED: unsegmented["skipped"].text,
        **label_tables(anatomy),
    }
    return {name: text_bytes(texts[name]) for name in TABLES}


def rows_of(path: Path) -> list[dict[str, str]]:
    """Lines of a table; none where there is none (earlier versions wrote fewer), or one that cannot be read."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []


def scan_row(outcome: ScanOutcome, anatomy: Anatomy, folder: Path) -> dict[str, Any]:
    """One line of ``scans.csv``."""
    lowest, topmost, count = levels_in_view(outcome, anatomy)
    return {
        "scan": outcome.name,
        "status": outcome.status,
        "alarms": " ".join(outcome.alarms),
        "notes": " ".join(outcome.notes),
        "lowest": lowest,
        "topmost": topmost,
        "structures": count,
        "margin": _rounded(outcome.summary.margin, 4),
        "anchored": "" if outcome.summary.margin is None else outcome.summary.anchored,  # without a chain, neither
        "review": outcome.summary.review,
        "warnings": "; ".join(outcome.warnings),
        "seconds": round(outcome.seconds, 2) if outcome.seconds else "",
        "source": outcome.source,
        "label": _within(outcome.label, folder),
    }


def structure_row(outcome: ScanOutcome, structure: Mapping[str, Any]) -> dict[str, Any]:
    """One line of ``structures.csv``; without its name where names mean nothing."""
    mm, voxel = (structure.get(key) or (None, None, None) for key in ("centroid_mm", "centroid_voxels"))
    return {
        "scan": outcome.name,
        **{key: structure.get(key) for key in ("code", "kind", "state", "lateral")},
        "name": structure.get("name") if names_are_trusted(outcome.alarms) else "",
        "cut_at": " ".join(structure.get("cut_at", ())),
        **{
            key: _rounded(structure.get(key), 4)
            for key in ("volume_ml", "height_mm", "confidence", "outline_confidence")
        },
        **{key: _rounded(structure.get(key), 2) for key in _SIZES},
        **{f"centroid_{axis}_mm": _rounded(value, 3) for axis, value in zip("xyz", mm, strict=True)},
        **{f"centroid_{axis}": _rounded(value, 3) for axis, value in zip("ijk", voxel, strict=True)},
    }


def levels_in_view(outcome: ScanOutcome, anatomy: Anatomy) -> tuple[str, str, int]:
    """Names of the lowest and the topmost structure of the chain that were found, and how many structures were.

    The names are empty where none of the chain was found, and under `unusual_contrast`, where they mean nothing.
    """
    chain = [structure.name for structure in anatomy.along_spine() if structure.code in outcome.summary.codes]
    named = bool(chain) and names_are_trusted(outcome.alarms)
    lowest, topmost = (chain[0], chain[-1]) if named else ("", "")
    return lowest, topmost, len(outcome.summary.codes)


def _within(path: Path | None, folder: Path) -> str:
    if path is None:
        return ""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


class _Csv:
    """A table that is written row by row."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._text = io.StringIO()
        self._writer = csv.DictWriter(self._text, columns, lineterminator="\n")
        self._writer.writeheader()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._writer.writerows(rows)

    @property
    def text(self) -> str:
        return self._text.getvalue()
