"""Records that stay in their sidecars: the same tables and page as from memory, and no file is read for each value."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.inference import outcome as outcome_module
from cps4_monai.inference.outcome import ScanOutcome, StoredRecord, look_lines
from cps4_monai.inference.run_tables import run_tables
from cps4_monai.inference.scan_views import report_files


def record_of(number: int) -> dict[str, Any]:
    """A scan with L5 whole and L4 cut, a flag and a warning."""
    structure = {"kind": "vertebra", "volume_ml": 20.0 + number, "confidence": 0.9, "centroid_mm": [1.0, 2.0, 3.0]}
    return {
        "Flags": [{"name": "level_ambiguous", "detail": f"margin of scan {number}"}] if number % 2 else [],
        "Warnings": [f"warning {number}"],
        "Seconds": {"read": 1.0, "network": 0.5 * number},
        "Levels": {"margin": 0.25 * number, "anchored": True},
        "Structures": [
            {**structure, "code": 2, "name": "L5", "state": "present"},
            {**structure, "code": 3, "name": "L4", "state": "cut", "cut_at": ["superior"]},
            {**structure, "code": 4, "name": "L3", "state": "absent", "confidence": None},
        ],
    }


def outcomes_of(folder: Path, stored: bool) -> list[ScanOutcome]:
    made = []
    for number in range(5):
        sidecar = folder / f"scan{number}_dseg.json"
        sidecar.write_text(json.dumps(record_of(number)))
        record = StoredRecord(sidecar) if stored else record_of(number)
        label = folder / f"scan{number}_dseg.nii.gz"
        made.append(ScanOutcome(Path(f"scan{number}.nii.gz"), f"scan{number}", "done", "", label, None, record))
    return [*made, ScanOutcome(Path("bad.nii.gz"), "bad", "failed", "bad.nii.gz: damaged")]


def written(outcomes: list[ScanOutcome], folder: Path) -> dict[str, bytes]:
    """Files of a run, and what the command says at its end."""
    files = run_tables(outcomes, MRSPINESEG, folder)
    for part in report_files(outcomes, MRSPINESEG, settings={}, views=False):
        files |= part
    return files | {"look": "\n".join(look_lines(outcomes, 3)).encode()}


def test_a_sidecar_is_read_once_for_the_tables_and_once_for_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = written(outcomes_of(tmp_path, stored=False), tmp_path)
    stored, read = outcomes_of(tmp_path, stored=True), Counter[str]()

    def counted(text: str) -> Any:
        content = json.JSONDecoder().decode(text)
        read[content["Warnings"][0]] += 1
        return content

    monkeypatch.setattr(outcome_module.json, "loads", counted)
    assert written(stored, tmp_path) == in_memory
    assert set(read.values()) == {2} and len(read) == 5


def test_the_summary_says_what_a_record_says() -> None:
    outcome = ScanOutcome(Path("a.nii.gz"), "a", "kept", "an older one", record=record_of(3))
    assert outcome.summary.codes == (2, 3) and outcome.seconds == 2.5
    assert (outcome.summary.margin, outcome.summary.anchored, outcome.summary.review) == (0.75, True, "")
    assert outcome.warnings == ["an older one", "warning 3"] and outcome.alarms == ["level_ambiguous"]
    assert look_lines([outcome], 3) == ["1 of 1 to look at:", "  a: level_ambiguous (an older one; warning 3)"]
    nothing = ScanOutcome(Path("a.nii.gz"), "a", "failed", "damaged")
    assert (nothing.alarms, nothing.warnings, nothing.seconds, nothing.summary.codes) == ([], [], 0.0, ())
