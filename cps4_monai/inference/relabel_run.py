"""Corrections of a run's folder: each label map, then tables and report once, all other scans as they are."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.data.label_ownership import is_described, record_beside
from cps4_monai.data.run_files import RunFiles
from cps4_monai.encoding import path_text, readable
from cps4_monai.inference.corrections import Correction
from cps4_monai.inference.masks import outcome_of_mask, unsegmented_before
from cps4_monai.inference.outcome import ScanOutcome, reason_of
from cps4_monai.inference.relabel import RelabelError, relabel, restore_original
from cps4_monai.inference.run_tables import FAILURES, SCAN_COLUMNS, SCANS, TABLES, rows_of, run_tables
from cps4_monai.inference.scan_files import ScanFiles
from cps4_monai.inference.scan_views import REPORT, report_files, spread_over_threads
from cps4_monai.inference.settings_in_words import settings_in_words
from cps4_monai.scan_names import find_nifti

AT_A_TIME = 2  # scans that are read for the page, as in `cps4 report`


@dataclass(frozen=True)
class Relabeled:
    """What became of the corrections.

    Attributes:
        applied: sidecar of each corrected label map, by the scan's name.
        refused: reason, by the scan's name.
        report: the page; None where the label map lies in no folder of a run.
        unlisted: the folder of a run that the label map lies in, whose tables do not name it, as they are those of
            another call of `cps4 segment`; they stay as they are.
        before: names of the applied ones that had been applied before, so that nothing was changed.
    """

    applied: Mapping[str, Mapping[str, Any]]
    refused: Mapping[str, str]
    report: Path | None
    unlisted: Path | None = None
    before: frozenset[str] = frozenset()


def relabel_run(
    output: str | Path,
    corrections: Sequence[Correction],
    anatomy: Anatomy = MRSPINESEG,
    images: str | Path | None = None,
) -> Relabeled:
    """Applies corrections to the results of `cps4 segment`; one that cannot be does not stop the others.

    Tables and pages that `cps4 report` made of a folder within, or of one around, follow.

    Args:
        output: the folder of the run.
        corrections: of :func:`cps4_monai.inference.corrections.read_corrections`.
        anatomy: the classes.
        images: see :func:`cps4_monai.inference.relabel.relabel`.

    Raises:
        RelabelError: no folder of a run.
        ForeignFileError: a table or report in it that is not ours, before anything is changed.
    """
    output = Path(output)
    rows = _rows(output)
    labels: dict[str, Path] = {}
    refused: dict[str, str] = {}
    for correction in corrections:
        try:
            labels[correction.scan] = _label_of(correction.scan, rows, output)
        except (ValueError, OSError) as error:
            refused[correction.scan] = reason_of(error)
    others = [folder for folder in _runs_of(labels.values()) if folder != output.resolve()]
    for folder in (output, *others):
        RunFiles(folder).check((*TABLES, REPORT))
    applied: dict[str, Mapping[str, Any]] = {}
    before: set[str] = set()
    for correction in corrections:
        if correction.scan in refused:
            continue
        try:
            label = labels[correction.scan]
            said = record_beside(label)
            applied[correction.scan] = relabel(label, correction, anatomy, images)
            before |= {correction.scan} if applied[correction.scan] == said else set()
        except (ValueError, OSError) as error:
            refused[correction.scan] = reason_of(error)
    for folder in others:
        _write_tables(folder, _rows(folder), anatomy)
    return Relabeled(applied, refused, _write_tables(output, rows, anatomy), before=frozenset(before))


def relabel_file(
    label_path: str | Path,
    correction: Correction | None,
    anatomy: Anatomy = MRSPINESEG,
    images: str | Path | None = None,
) -> Relabeled:
    """Applies one correction to one label map, and to tables and report of the run's folder that it lies in, if any.

    Where `cps4 report` was called on a folder within, its tables and page follow, too.

    Args:
        label_path: the label map.
        correction: None: take all corrections of it back.
        anatomy: the classes.
        images: see :func:`cps4_monai.inference.relabel.relabel`.

    Raises:
        RelabelError: see :func:`cps4_monai.inference.relabel.relabel`.
        ForeignFileError: a table or report that is not ours, before anything is changed.
    """
    path = Path(label_path)
    outputs = _runs_of([path])
    for output in outputs:
        RunFiles(output).check((*TABLES, REPORT))
    record = restore_original(path, anatomy) if correction is None else relabel(path, correction, anatomy, images)
    pages = [_write_tables(output, _rows(output), anatomy) for output in outputs]
    if not pages:
        return Relabeled({path.name: record}, {}, None, _around(path))
    return Relabeled({path.name: record}, {}, pages[-1])


def _rows(output: Path) -> list[dict[str, str]]:
    """Lines of the run's ``scans.csv``."""
    path = output / SCANS
    if not path.is_file():
        raise RelabelError(
            f"{output}: has no {SCANS}; expected the folder of 'cps4 segment -o', or a label map. Fix: 'cps4 report "
            f"{output}' makes the tables of label maps that are there"
        )
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _label_of(scan: str, rows: Sequence[Mapping[str, str]], output: Path) -> Path:
    labels = [row["label"] for row in rows if row["scan"] == scan]
    if not labels or not labels[0]:
        there = ", ".join(row["scan"] for row in rows[:5])
        raise RelabelError(f"{scan}: no label map of this scan in {output / SCANS}; it has {there or 'none'} ...")
    return _there(output, labels[0])


def _there(output: Path, text: str) -> Path:
    """The file that a table of the run names; where the name is no UTF-8, the table has it escaped."""
    path = output / path_text(text)
    if path.is_file() or "\\" not in text:
        return path
    return next((other for other in find_nifti(output) if _in_table(other, output) == text), path)


def _in_table(path: Path, output: Path) -> str:
    return readable(path.relative_to(output).as_posix())


def _runs_of(labels: Iterable[Path]) -> list[Path]:
    """Folders whose ``scans.csv`` names one of the label maps, their own or above, the outermost last: a run's, and
    those of which `cps4 report` made a page."""
    paths = {label.resolve() for label in labels}
    above = {folder for path in paths for folder in path.parents}
    return [folder for folder in sorted(above, key=lambda f: (-len(f.parts), f)) if _names_one_of(folder, paths)]


def _names_one_of(folder: Path, paths: Collection[Path]) -> bool:
    named = {row.get("label") or "" for row in rows_of(folder / SCANS)}
    if not named:
        return False
    within = {path for path in paths if folder in path.parents}
    return not within.isdisjoint(folder / path_text(label) for label in named) or not named.isdisjoint(
        _in_table(path, folder) for path in within
    )


def _around(path: Path) -> Path | None:
    """The folder with tables of a run, by their columns, that is nearest above."""
    rows = ((folder, rows_of(folder / SCANS)) for folder in path.resolve().parents)
    return next((folder for folder, lines in rows if lines and {*SCAN_COLUMNS} <= {*lines[0]}), None)


def _write_tables(output: Path, rows: Sequence[Mapping[str, str]], anatomy: Anatomy) -> Path:
    """Tables and report of what the sidecars say now; what failed in the run is kept as its tables have it, and a label
    map that cannot be read has failed.
    """
    reasons = {row["scan"]: row["reason"] for row in rows_of(output / FAILURES)}
    outcomes = [_outcome(row, reasons, output, anatomy) for row in rows]
    outcomes += unsegmented_before(output, {outcome.name for outcome in outcomes})
    run_files = RunFiles(output)
    run_files.write(run_tables(outcomes, anatomy, output))
    pictured = any(outcome.picture is not None for outcome in outcomes)  # a run without pictures has no viewer, either
    for files in report_files(
        outcomes, anatomy, settings=_settings(outcomes), views=pictured, spread=spread_over_threads(AT_A_TIME)
    ):
        run_files.write(files)
    return output / REPORT


def _note(row: Mapping[str, str], record: Mapping[str, Any]) -> str:
    """What a scan's row says before the warnings of its record: a copy that it lacks, why a label map was kept."""
    return (row.get("warnings") or "").removesuffix("; ".join(record.get("Warnings", []))).removesuffix("; ")


def _outcome(row: Mapping[str, str], reasons: Mapping[str, str], output: Path, anatomy: Anatomy) -> ScanOutcome:
    source, name = Path(path_text(row["source"])), row["scan"]
    label = _there(output, row["label"]) if row["label"] else None
    if row["status"] == "failed" or label is None or not label.is_file():
        return ScanOutcome(source, name, "failed", reasons.get(name, "its label map is gone"))
    files = ScanFiles.beside(label)
    picture = files.picture if files.picture.exists() else None
    if is_described(label):
        record = record_beside(label)
        return ScanOutcome(_source(row, record), name, row["status"], "", label, picture, record, _note(row, record))
    try:
        seen = outcome_of_mask(label, name, output, source, anatomy, None, False)
    except Exception as error:  # as in `cps4 report`: it never stops the others, of which one was just corrected
        return ScanOutcome(source, name, "failed", reason_of(error))
    return ScanOutcome(source, name, row["status"], "", label, picture, seen.record)


def _source(row: Mapping[str, str], record: Mapping[str, Any]) -> Path:
    """The scan of a label map: as the run's table has it, where that leads to it from the folder of this command.

    The table has the path as it was given, from another folder perhaps, or escaped; the record has it whole.
    """
    source = Path(path_text(row["source"]))
    recorded = Path(next(iter(record.get("Sources", [])), source))
    same = os.path.realpath(source) == os.path.realpath(recorded)
    return recorded if not same and (recorded.exists() or "\\" in row["source"]) else source


def _settings(outcomes: Sequence[ScanOutcome]) -> dict[str, str] | None:
    """Settings of the run in words, as its first result has them."""
    for outcome in outcomes:
        record = outcome.record
        if "Raw" in (record.get("Settings") or {}) and record.get("Weights"):  # not so of plain MONAI's results
            machine = f"torch {record.get('Software', {}).get('torch', '')} on {record.get('Device', '')}"
            return settings_in_words(record["Settings"], record["Weights"], machine)
    return None
