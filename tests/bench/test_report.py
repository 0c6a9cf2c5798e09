"""The report's pages: what they state, and that Markdown and HTML say the same."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from cps4_monai.bench.report import write_study_report
from cps4_monai.bench.results import find_studies, load_results

BASE, OURS = {"s1": 0.2, "s2": 0.4}, {"s1": 0.5, "s2": 0.45}


@pytest.fixture
def report(write_runs, tmp_path: Path):
    def make(scores: dict, manifest: dict | None = None, **options) -> tuple[str, str, Path]:
        made = write_study_report(write_runs(scores, **(manifest or {})), tmp_path / "out", pictures=False, **options)
        return made.markdown.read_text(), made.html.read_text(), made.markdown

    return make


def test_the_markdown_page_holds_tables_and_its_pictures_beside_it(report) -> None:
    scores = {("base", "5", 0): BASE, ("ours", "5", 0): OURS, ("base", "100", 0): {"s1": 0.9, "s2": 0.8}}
    text, html, path = report(scores, {"gap": "base"}, section="test")
    assert "| **Ours** | 5 % | 0 | **0.475 [0.450, 0.500]** |" in text
    assert "| Ours | 5 % | 0 | +17.5 [+5.0, +30.0] |" in text and "0.500 (+30.0)" in text
    assert "| 32% |" in text, "gap closed: (0.475 - 0.3) / (0.85 - 0.3)"
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(links) >= 4 and all((path.parent / link).is_file() for link in links)
    assert all((path.parent / link).read_text().count("<svg") == 1 for link in links)
    for shown in ("+17.5 [+5.0, +30.0]", "0.475 [0.450, 0.500]", "ceiling"):
        assert shown in html
    assert "made-up-dice-by-labeled-share" in text


def test_cells_of_a_stage_1_that_was_trained_again_are_named(write_runs, tmp_path: Path) -> None:
    runs = write_runs({("base", "5", 0): BASE, ("ours", "5", 0): OURS, ("ours", "5", 1): OURS})
    for folder, of_stage1 in (("cells/ours-5pct-seed0", "a"), ("stage1/own-0", "b"), ("stage1/own-1", "b")):
        done = runs / folder / "done.json"
        done.write_text(json.dumps({**json.loads(done.read_text()), "stage1_sha256": of_stage1}))
    text = write_study_report(runs, tmp_path / "out", pictures=False).markdown.read_text()
    assert "trained again, with the same settings, after the training of ours-5pct-seed0: its scores" in text


def test_no_comparison_mixes_seeds(report) -> None:
    """The second seed of ours is a lucky one, which base has not been trained on; theirs is behind on seed 0."""
    scores = {
        ("base", "5", 0): BASE,
        ("ours", "5", 0): {"s1": 0.1, "s2": 0.3},
        ("ours", "5", 1): {"s1": 1.0, "s2": 0.9},
    }
    text, *_ = report({**scores, ("base", "100", 0): BASE, ("ours", "100", 1): BASE}, section="test")
    assert "| **Base** | 5 % | 0 | **0.300 [0.200, 0.400]** | 1.0 |" in text
    assert "| Ours | 5 % | 0 | 0.200 [0.100, 0.300] | 2.0 |" in text
    assert "| Ours | 5 % | 0, 1 | 0.575 [0.550, 0.600] | – |" in text
    assert "5 % labeled: some methods have more seeds than others. Compare rows of the same seeds only" in text
    assert "**100 % labeled: no seed is there of all methods, and their rows are not to be compared.**" in text
    assert "Best on the validation subjects, where methods are chosen: Base at 5 % (0.400 there, 0.300 here)." in text
    assert "| s1 | 0.200 | 0.100 (-10.0) |" in text and "| L5 | 0.600 | 0.400 |" in text


def test_cells_that_stand_in_no_row_are_named(report, write_runs) -> None:
    """As soon as a cell failed on each side, the methods share fewer seeds than any of them has."""
    done = [("base", 0), ("base", 1), ("ours", 0), ("ours", 2)]
    text, *_ = report({(method, "5", seed): BASE for method, seed in done}, section="test")
    assert "| Ours | 5 % | 0 |" in text and "| 5 % | 0, 2 |" not in text
    assert "**In no row, since other methods lack their seeds: base-5pct-seed1, ours-5pct-seed2.**" in text


def test_a_cell_without_its_record_is_named(write_runs) -> None:
    runs = write_runs({("base", "5", 0): BASE})
    record = runs / "cells/base-5pct-seed0/stage2/run.json"
    record.unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(str(record))}: not there, or cut off; expected the record"):
        load_results(find_studies(runs)[0], runs, "test")


def test_the_evidence_figure_is_of_the_seeds_that_its_methods_share(write_runs) -> None:
    figure = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "evidence_figure.py"))
    scores = {("supervised", "5", seed): BASE for seed in (0, 1)} | {("cps4", "5", 0): OURS, ("other", "5", 2): OURS}
    runs = write_runs(scores)
    results = load_results(find_studies(runs)[0], runs, "test")
    assert [cell.name for cell in figure["shown_cells"](results).cells] == ["supervised-5pct-seed0", "cps4-5pct-seed0"]
    assert "seeds 0<" in figure["draw"](results).replace("\n", "")


def test_the_head_says_how_the_figures_were_made(report) -> None:
    text, *_ = report({("base", "5", 0): BASE, ("ours", "5", 0): OURS, ("ours", "5", 1): OURS})
    for shown in (
        "`cps4 bench x.yaml -o RUNS`",
        "cps4 bench report RUNS -o out --section validation",
        "2026-01-02",
        "abacus",
        "Seeds 0, 1",
        "stage 2: 100; of stage 1: 70",
        "0123456789abcdef",
        "torch 2.0",
        "Made up. CC0.",
        "| epochs | max_epochs | 2 |",
    ):
        assert shown in text, shown


def test_on_the_test_subjects_the_best_is_the_one_chosen_on_validation(report) -> None:
    text, *_ = report({("base", "5", 0): BASE, ("ours", "5", 0): OURS}, section="test")
    assert "Best on the validation subjects, where methods are chosen: Ours at 5 % (0.575 there, 0.475 here)." in text
    assert "Scored on the **test** subjects" not in text and "Scored on the test subjects." in text


def test_prompt_maps_stand_once_for_all_methods_that_share_them(report) -> None:
    text, *_ = report({("base", "5", 0): BASE, ("ours", "5", 0): OURS, ("ours", "5", 1): OURS})
    # Seeds 0 and 1: 0.2 and 0.4, ceiling 0.7 and 0.9. Kept are the weights of the first epoch.
    assert "| Ours | 5 % | 2 | 0.300 | 0.141 | 0.300 | 0.300 | 0.800 | 0.500 | 0.600 | 0.400 |" in text


def test_what_is_missing_or_unequal_stands_out(report) -> None:
    budget = [["views", "views", {'"same"': "ours", '"weak_strong"': "base"}]]
    scores = {("base", "5", 0): BASE, ("ours", "5", 0): OURS, ("ours", "5", 1): {}}
    text, html, _ = report(scores, {"budget": budget, "may_differ": ["views"]})
    assert "**1 of 3 cells are not done: ours-5pct-seed1**" in text
    assert '"same": ours; "weak_strong": base' in text and "lets differ: views" in text
    assert 'class="warn"' in html
