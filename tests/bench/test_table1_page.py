"""benchmarks/table1.py: a page of a study's scores, and of systems that have a trainer of their own beside them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = "above\n<!-- tables: benchmarks/table1.py -->\nformer\n<!-- end of tables -->\nbelow\n"


@pytest.fixture
def make_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Function that writes the page of a study that is called table1, with further arguments; gives its text."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import table1

    def make(runs: Path, *more: str) -> str:
        (runs / "made_up.study.json").replace(runs / "table1.study.json")
        page = tmp_path / "page.md"
        page.write_text(PAGE)
        monkeypatch.setattr(sys, "argv", ["table1.py", str(runs), "--page", str(page), *more])
        table1.main()
        return page.read_text()

    return make


def test_a_peer_stands_beside_the_methods_that_were_trained_on_its_patients(write_runs, make_page, tmp_path: Path):
    two, better = {"sub-1": 0.5, "sub-2": 0.6}, {"sub-1": 0.7, "sub-2": 0.6}
    scores = {("base", "5", seed): two for seed in (0, 1)} | {("ours", "5", 0): better, ("ours", "5", 1): two}
    runs = write_runs(scores, baseline="base")
    peer = tmp_path / "peer" / "test"
    for way, cell in (("argmax", "base-5pct-seed0"), ("decoded", "ours-5pct-seed0")):
        shutil.copytree(runs / "cells" / cell / "test", peer / f"report_{way}")
    text = make_page(runs, "--scores-only", "--peer", "nnU-Net", "5", str(tmp_path / "peer"))
    assert text.startswith("above\n<!-- tables") and text.endswith("-->\nbelow\n") and "former" not in text
    one, both = text.split("**2 test patients, seeds 0, 1**")
    rows = [line.split(" | ") for line in one.splitlines() if line.startswith("| ")][1:]
    assert [(row[0], row[2].split()[0]) for row in rows] == [
        ("| Base", "0.550"),
        ("| Ours", "0.650"),
        ("| nnU-Net", "0.550"),
    ]
    assert rows[1][3] == "+10.0 [+0.0, +20.0]" and rows[2][3] == "+0.0 [+0.0, +0.0]"
    assert rows[2][5].startswith("0.650") and "**2 test patients, seed 0**" in one
    assert "| Ours | | 0.600" in both.replace("  ", " ") and "nnU-Net" not in both


def test_a_peer_without_reports_is_named(write_runs, make_page, tmp_path: Path):
    runs = write_runs({("base", "5", 0): {"sub-1": 0.5, "sub-2": 0.6}}, baseline="base")
    with pytest.raises(ValueError, match=r"peer.*report_argmax: .*expected the tables that `cps4 report` writes"):
        make_page(runs, "--scores-only", "--peer", "nnU-Net", "5", str(tmp_path / "peer"))
