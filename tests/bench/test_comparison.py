"""Statistics of a study, worked out by hand on made-up scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cps4_monai.bench.comparison import (
    best_methods,
    comparable,
    differences_to,
    gap_closed,
    mean_ranks,
    method_rows,
    structure_means,
)
from cps4_monai.bench.results import StudyResults, find_studies, load_results

BASE = {"s1": 0.2, "s2": 0.4}
SCORES = {
    ("base", "5", 0): BASE,
    ("base", "5", 1): {"s1": 0.4, "s2": 0.4},
    ("ours", "5", 0): {"s1": 0.5, "s2": 0.5},
    ("ours", "5", 1): {"s1": 0.7, "s2": 0.3},
    ("base", "100", 0): {"s1": 0.8, "s2": 0.9},
}


@pytest.fixture
def results(write_runs):
    def make(scores: dict, section: str = "test", **manifest) -> StudyResults:
        runs = write_runs(scores, **manifest)
        return load_results(find_studies(runs)[0], runs, section)

    return make


def test_seeds_are_averaged_per_subject_and_spread_is_over_seeds(results) -> None:
    rows = {(row.method, row.share): row for row in method_rows(results(SCORES))}
    base = rows["base", "5"]
    # Subjects: s1 (0.2 + 0.4) / 2 = 0.3, s2 0.4. Seeds: 0.3 and 0.4, so SD = 0.1 / sqrt(2).
    assert base.dice["b"].mean == pytest.approx(0.35) and base.dice["b"].n == 2 and base.seeds == (0, 1)
    assert base.seed_sd["b"] == pytest.approx(0.1 / 2**0.5)
    assert (base.dice["b"].low, base.dice["b"].high) == pytest.approx((0.3, 0.4)), "patients are drawn, not seeds"
    # (a) is a mean over slices: 10 of s1, 20 of s2, each 0.01 above (b).
    assert base.dice["a"].mean == pytest.approx((10 * 0.31 + 20 * 0.41) / 30)
    assert base.dice["c"].mean == pytest.approx(0.34) and base.iou.mean == pytest.approx(0.175)
    assert (base.missed, base.labeled, base.identified) == (2, 4, 0.5) and base.seconds == 60
    assert rows["base", "100"].seed_sd["b"] != rows["base", "100"].seed_sd["b"], "one seed has no spread"
    assert [key[1] for key in rows] == ["5", "5", "100"]


def test_methods_stand_beside_those_that_have_their_seeds_and_again_with_each_further_seed(results) -> None:
    seeds = {"base": (0, 1, 2), "ours": (0, 1, 2), "costly": (0, 1), "late": (0,)}
    found = results({(method, "5", seed): BASE for method, own in seeds.items() for seed in own})

    def sets(without: tuple = ()) -> list:
        cells = tuple(cell for cell in found.cells if (cell.method, cell.seed) not in without)
        parts = comparable(replace(found, cells=cells), "5")
        return [({cell.method for cell in part.cells}, {cell.seed for cell in part.cells}) for part in parts]

    assert sets() == [(set(seeds), {0}), ({"base", "ours", "costly"}, {0, 1}), ({"base", "ours"}, {0, 1, 2})]
    # Seeds 0 and 2 of ours, 0 and 1 of another: these two share no more, the method with three stands alone.
    assert sets([("ours", 1)]) == [(set(seeds), {0}), ({"base"}, {0, 1, 2})]
    assert sets([("late", 0), *[("costly", 0), ("ours", 0), ("ours", 2), ("base", 1)]]) == []  # no seed of all


def test_by_a_the_scans_of_a_patient_count_by_their_slices(results) -> None:
    """As `cps4 evaluate` has it: the mean over all slices, 0.6 here, where scans averaged alike would give 0.5."""
    found = results({("base", "5", 0): {"s1": 0.2, "s2": 0.5}, ("ours", "5", 0): {"s1": 0.4, "s2": 0.5}})
    scans = found.cases[found.cases["subject"] == "s1"].assign(case="s1 again", dice_a=0.8, num_slices=15)
    cases = pd.concat([found.cases.assign(dice_a=found.cases["dice_b"]), scans], ignore_index=True)
    cases.loc[cases["case"] == "s1", "num_slices"] = 5
    cases.loc[cases["case"] == "s2", "num_slices"] = 10
    found.__dict__["cases"] = cases
    base, ours = method_rows(found)
    own = cases[cases["method"] == "base"]
    assert (
        base.dice["a"].mean == pytest.approx(np.average(own["dice_a"], weights=own["num_slices"])) == pytest.approx(0.6)
    )
    assert ours.dice["a"].mean == pytest.approx((5 * 0.4 + 15 * 0.8 + 10 * 0.5) / 30)
    (difference,) = differences_to(found, "base")
    assert difference.others["a"] == pytest.approx(5 * 0.2 / 30)


def test_differences_are_paired_by_subject_on_common_seeds(results) -> None:
    (only,) = differences_to(results(SCORES), "base")
    assert (only.method, only.share, only.seeds) == ("ours", "5", (0, 1))
    assert only.by_subject.to_dict() == pytest.approx({"s1": 0.3, "s2": 0.0})
    assert only.comparison.difference.mean == pytest.approx(0.15) and only.comparison.wins == 1
    assert only.others == pytest.approx({"a": 10 * 0.3 / 30, "c": 0.15}), "10 slices of s1, 20 of s2"


def test_ranks_are_averaged_over_the_patients_that_all_methods_have(results) -> None:
    scores = {("first", "5", 0): {"s1": 0.9, "s2": 0.5, "s3": 0.4}, ("second", "5", 0): {"s1": 0.8, "s2": 0.5}}
    scores[("third", "5", 0)] = {"s1": 0.1, "s2": 0.7, "s3": 0.9}
    # s1: 1, 2, 3. s2: the first two share 2 and 3, the third leads. s3 is not scored by the second.
    assert mean_ranks(results(scores), "5") == {"first": 1.75, "second": 2.25, "third": 2.0}


def test_ranks_are_of_the_seeds_that_all_methods_have_as_differences_are(results) -> None:
    scores = {key: value for key, value in SCORES.items() if key != ("ours", "5", 1)}
    scores["base", "5", 1] = {"s1": 0.9, "s2": 0.9}  # another labeled subset, which only one of them has seen so far
    assert mean_ranks(results(scores), "5") == {"base": 2.0, "ours": 1.0}


def test_methods_without_a_seed_in_common_have_no_rank(results) -> None:
    assert mean_ranks(results({("base", "5", 0): BASE, ("ours", "5", 1): BASE}), "5") == {}


def test_where_fewer_than_two_have_a_score_there_is_no_rank(results) -> None:
    study = results(SCORES)
    assert mean_ranks(study, "100") == {}, "base alone"
    assert mean_ranks(study, "5", "decoded_b") == {}, "these cells did not score decoded levels"


def test_a_seed_that_one_side_lacks_enters_no_difference(results) -> None:
    scores = {key: value for key, value in SCORES.items() if key != ("ours", "5", 1)}
    (only,) = differences_to(results(scores), "base")
    assert only.seeds == (0,) and only.by_subject.to_dict() == pytest.approx({"s1": 0.3, "s2": 0.1})


def test_without_an_upper_bound_or_on_other_seeds_no_gap_is_stated(results) -> None:
    scores = {("base", "5", 0): BASE, ("ours", "5", 1): BASE}
    assert gap_closed(results(scores), "base") == {}


def test_the_gap_is_closed_on_common_seeds(results) -> None:
    scores = {key: value for key, value in SCORES.items() if key != ("ours", "5", 0)}
    # Seed 1 alone: base 0.4, ours 0.5; all labels 0.85.
    assert gap_closed(results(scores), "base") == {("ours", "5"): pytest.approx(0.1 / 0.45)}


def test_the_gap_is_closed_on_subjects_that_have_a_score_with_all_labels_too(results) -> None:
    scores = {
        ("base", "5", 0): {"s1": 0.4},  # s2 could not be scored there
        ("ours", "5", 0): {"s1": 0.6, "s2": 0.1},
        ("base", "100", 0): {"s1": 0.8, "s2": 0.2},
    }
    assert gap_closed(results(scores), "base") == {("ours", "5"): pytest.approx(0.2 / 0.4)}


def test_a_subject_that_one_side_lacks_in_one_seed_is_compared_on_the_others(results) -> None:
    three = {"s1": 0.1, "s2": 0.3, "s3": 0.8}
    worse = {name: value - 0.2 for name, value in three.items()}
    scores = {("base", "5", 0): three, ("base", "5", 1): worse}
    scores |= {("ours", "5", 0): {"s1": 0.1, "s2": 0.3}, ("ours", "5", 1): worse}
    found = results(scores)
    (only,) = differences_to(found, "base")
    assert only.by_subject.to_dict() == pytest.approx({"s1": 0.0, "s2": 0.0, "s3": 0.0})
    assert only.others == pytest.approx({"a": 0.0, "c": 0.0})
    ours = method_rows(found)[1]
    assert ours.dice["b"].n == 3 and ours.dice["b"].mean == pytest.approx((0.0 + 0.2 + 0.6) / 3)


def test_wilcoxon_of_five_equal_gains_is_the_smallest_there_is(results) -> None:
    subjects = {f"s{k}": 0.1 * k for k in range(1, 6)}
    better = {name: value + 0.01 * place for place, (name, value) in enumerate(subjects.items(), start=1)}
    (only,) = differences_to(results({("base", "5", 0): subjects, ("ours", "5", 0): better}), "base")
    assert only.comparison.p_value == pytest.approx(2 / 2**5) and only.comparison.wins == 5


def test_the_gap_is_from_the_method_at_the_share_to_it_with_all_labels(results) -> None:
    found = results(SCORES)
    # base 0.35 at 5 %, 0.85 at 100 %; ours 0.5.
    assert gap_closed(found, "base") == {("ours", "5"): pytest.approx(0.3)}
    assert best_methods(method_rows(found)) == {"5": "ours"}, "100 % has one method, nothing to choose from"


def test_structures_are_averaged_over_subjects_then_shown_by_method(results) -> None:
    table = structure_means(results(SCORES), "5")
    assert list(table.columns) == ["base", "ours"]
    assert table.loc[(2, "L5"), "base"] == pytest.approx(2 * 0.35) and table.loc[(11, "L5/S"), "ours"] == 0


def test_cells_that_are_not_done_are_named_and_enter_nothing(results) -> None:
    found = results({**SCORES, ("ours", "5", 2): {}})
    assert found.missing == ("ours-5pct-seed2",) and len(found.cells) == 5
    with pytest.raises(ValueError, match="expected one of"):
        differences_to(found, "theirs")


def test_a_section_that_was_not_evaluated_is_refused(write_runs, tmp_path: Path) -> None:
    runs = write_runs(SCORES, evaluate=["validation"])
    with pytest.raises(ValueError, match="add it to 'evaluate' in the study and run the study again"):
        load_results(find_studies(runs)[0], runs, "test")
    with pytest.raises(ValueError, match=r"holds the studies \['made_up'\], asked for \['other'\]"):
        find_studies(runs, ["other"])
    with pytest.raises(ValueError, match="output folder of"):
        find_studies(tmp_path / "nowhere")


def test_decoded_levels_stand_beside_the_argmax(write_runs):
    runs = write_runs({("ours", "10", 0): {"a": 0.4, "b": 0.6}, ("theirs", "10", 0): {"a": 0.3, "b": 0.3}})
    for name, gain in (("ours-10pct-seed0", 0.3), ("theirs-10pct-seed0", 0.5)):
        folder = runs / "cells" / name / "test"
        (folder / "argmax").mkdir()
        for table in list(folder.glob("*.csv")):
            content = table.read_bytes()
            (folder / "argmax" / table.name).write_bytes(content)
        cases = pd.read_csv(folder / "cases.csv")
        cases.assign(dice_b=cases["dice_b"] + gain, all_levels_right=[True, name < "p"]).to_csv(
            folder / "cases.csv", index=False
        )
    results = load_results(find_studies(runs)[0], runs, "test")
    rows = {row.method: row for row in method_rows(results)}
    assert rows["ours"].dice["b"].mean == pytest.approx(0.5)
    assert rows["ours"].decoded.mean == pytest.approx(0.8)
    assert (rows["ours"].decoded_right, rows["theirs"].decoded_right) == (1.0, 0.5)
    difference = differences_to(results, "theirs")[0]
    assert difference.comparison.difference.mean == pytest.approx(0.2)
    assert difference.decoded.difference.mean == pytest.approx(0.0)


def test_cells_that_were_scored_by_argmax_only_have_no_decoded_values(write_runs):
    runs = write_runs({("ours", "10", 0): {"a": 0.4}, ("theirs", "10", 0): {"a": 0.3}})
    results = load_results(find_studies(runs)[0], runs, "test")
    assert method_rows(results)[0].decoded.n == 0
    assert differences_to(results, "theirs")[0].decoded is None
