"""Tables of a run: a line for each scan, for each structure of each scan, and for each failure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.label_review import review_state
from cps4_monai.encoding import text_bytes
from cps4_monai.inference.outcome import ScanOutcome
from cps4_monai.report.label_tables import (
    bids_dseg_table,
    itksnap_label_descriptions,
    slicer_colour_csv,
    slicer_colour_table,
)

SCAN_COLUMNS = (
    "scan", "status", "alarms", "notes", "lowest", "topmost", "structures", "margin", "anchored", "review", "warnings",
    "seconds", "source", "label",
)  # fmt: skip
STRUCTURE_COLUMNS = (
    "scan", "code", "name", "kind", "state", "cut_at", "lateral", "volume_ml", "centroid_x_mm", "centroid_y_mm",
    "centroid_z_mm", "centroid_i", "centroid_j", "centroid_k", "height_mm", "anterior_height_mm",
    "middle_height_mm", "posterior_height_mm", "disc_height_mm", "lordosis_deg", "confidence",
)  # fmt: skip
_SIZES = ("anterior_height_mm", "middle_height_mm", "posterior_height_mm", "disc_height_mm", "lordosis_deg")
FAILURE_COLUMNS = ("source", "scan", "reason")
TABLES = ("structures.csv", "scans.csv", "failures.csv", "labels.ctbl", "labels.csv", "labels_itksnap.txt", "dseg.tsv")


def run_tables(outcomes: Sequence[ScanOutcome], anatomy: Anatomy, folder: Path) -> dict[str, bytes]:
    """Contents of the run's tables by file name (``TABLES``).

    Args:
        outcomes: of all inputs.
        anatomy: the classes.
        folder: that the tables will lie in; label maps in it are named from there, so that it can be moved as a whole.
    """
    listed = [one for one in outcomes if one.status != "skipped"]
    structures = (structure_row(one, structure) for one in listed for structure in one.structures)
    failures = [{"source": o.source, "scan": o.name, "reason": o.reason} for o in outcomes if o.status == "failed"]
    tables = (
        _csv(STRUCTURE_COLUMNS, structures),
        _csv(SCAN_COLUMNS, (scan_row(one, anatomy, folder) for one in listed)),
        _csv(FAILURE_COLUMNS, failures),
        slicer_colour_table(anatomy),
        slicer_colour_csv(anatomy),
        itksnap_label_descriptions(anatomy),
        bids_dseg_table(anatomy),
    )
    return {name: text_bytes(text) for name, text in zip(TABLES, tables, strict=True)}


def scan_row(outcome: ScanOutcome, anatomy: Anatomy, folder: Path) -> dict[str, Any]:
    """One line of ``scans.csv``."""
    levels = outcome.record.get("Levels") or {}
    lowest, topmost, count = found_levels(outcome, anatomy)
    return {
        "scan": outcome.name,
        "status": outcome.status,
        "alarms": " ".join(outcome.alarms),
        "notes": " ".join(outcome.notes),
        "lowest": lowest,
        "topmost": topmost,
        "structures": count,
        "margin": _rounded(levels.get("margin"), 4),
        "anchored": levels.get("anchored"),
        "review": review_state(outcome.record),
        "warnings": "; ".join(outcome.warnings),
        "seconds": round(outcome.seconds, 2) if outcome.record else "",
        "source": outcome.source,
        "label": _within(outcome.label, folder),
    }


def structure_row(outcome: ScanOutcome, structure: Mapping[str, Any]) -> dict[str, Any]:
    """One line of ``structures.csv``."""
    mm, voxel = (structure.get(key) or (None, None, None) for key in ("centroid_mm", "centroid_voxels"))
    return {
        "scan": outcome.name,
        **{key: structure.get(key) for key in ("code", "name", "kind", "state", "lateral")},
        "cut_at": " ".join(structure.get("cut_at", ())),
        **{key: _rounded(structure.get(key), 4) for key in ("volume_ml", "height_mm", "confidence")},
        **{key: _rounded(structure.get(key), 2) for key in _SIZES},
        **{f"centroid_{axis}_mm": _rounded(value, 3) for axis, value in zip("xyz", mm, strict=True)},
        **{f"centroid_{axis}": _rounded(value, 3) for axis, value in zip("ijk", voxel, strict=True)},
    }


def found_levels(outcome: ScanOutcome, anatomy: Anatomy) -> tuple[str, str, int]:
    """Names of the lowest and the topmost structure of the chain that was found, and how many were."""
    found = {s["code"] for s in outcome.structures if s["state"] in ("present", "cut")}
    chain = [s.name for s in anatomy.along_spine() if s.code in found]
    return (chain[0], chain[-1], len(chain)) if chain else ("", "", 0)


def _within(path: Path | None, folder: Path) -> str:
    if path is None:
        return ""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
