"""The calibration of flags: limits within the bound, rates of patients that chose nothing, files that can be read."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cps4_monai.levels.flag_calibration import OUTLINE_RANGE, FlagCalibration, log_odds
from cps4_monai.levels.settings import LevelThresholds
from cps4_monai.levels.traits import TRAITS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import flag_calibration
    import flag_cases

    return SimpleNamespace(flags=flag_calibration, cases=flag_cases)


def made_up(patients: int = 120, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Patients with a right whole scan, a crop that is wrong in every fourth, and a contrast that mostly is."""
    rng = np.random.default_rng(seed)
    cases, structures = [], []
    for patient in range(patients):
        for group, share in (("whole", 0.03), ("crop", 0.25), ("contrast", 0.8)):
            wrong = rng.random() < share
            traits = {name: rng.normal(1.5 * wrong if name == "body_sizes" else 0.0) for name in TRAITS}
            margin = rng.normal(0.5 if wrong and group == "crop" else 2.5, 0.5)
            common = {"case": len(cases), "data": "made up", "subject": f"sub-{patient:03d}", "group": group}
            measured = {"margin": margin, "anchored": True, "fixed": False, **traits}
            cases.append({**common, "variant": group, "right": not wrong, **measured})
            for kind in ("vertebra", "disc"):
                confidence = float(rng.uniform(0.3, 0.99))
                good = rng.random() < 1 / (1 + np.exp(-log_odds(confidence, OUTLINE_RANGE) - 0.5))
                part = {
                    "kind": kind,
                    "name": kind,
                    "confidence": float(rng.uniform(0, 1)),
                    "outline_confidence": confidence,
                    "dice": 0.85 if good else 0.4,
                }
                structures.append({**common, "right": not wrong, **part})
    return pd.DataFrame(cases), pd.DataFrame(structures)


def test_limits_keep_the_bound_and_catch_most(benchmark: SimpleNamespace) -> None:
    cases, structures = made_up()
    calibration, limits = benchmark.flags.calibrate(cases, structures, 0.1)
    raised = benchmark.flags.alarms(cases, benchmark.flags.chances(cases, calibration.failure), limits)
    right, whole = cases["right"], cases["group"] == "whole"
    assert raised[right].mean() <= 0.1 and raised[right & whole].mean() <= 0.1
    assert raised[~right].mean() > 0.4 and raised[~right & (cases["group"] == "crop")].mean() > 0.9
    assert calibration.failure.weights["body_sizes"] > 1.0 > abs(calibration.failure.weights["edges"]) + 0.5


def test_a_fixed_alarm_counts_and_takes_its_share_of_the_bound(benchmark: SimpleNamespace) -> None:
    cases, structures = made_up()
    cases["fixed"] = cases["right"] & (np.arange(len(cases)) % 20 == 0)
    _, free = benchmark.flags.calibrate(cases.assign(fixed=False), structures, 0.1)
    calibration, limits = benchmark.flags.calibrate(cases, structures, 0.1)
    raised = benchmark.flags.alarms(cases, benchmark.flags.chances(cases, calibration.failure), limits)
    assert raised[cases["fixed"]].all() and raised[cases["right"]].mean() <= 0.1
    assert limits.failure >= free.failure or limits.margin <= free.margin


def test_rates_are_of_patients_that_chose_nothing(benchmark: SimpleNamespace) -> None:
    cases, structures = made_up()
    half = benchmark.flags.halves(cases["subject"])
    assert sorted(half.values()).count(0) == 60 and half["sub-000"] != half["sub-001"]
    checked, outlines = benchmark.flags.cross_checked(cases, structures, 0.1)
    assert checked["case"].tolist() == cases["case"].tolist() and len(outlines) == len(structures)
    other = cases["subject"].map(half) == 1
    there = structures["case"].isin(cases.loc[other, "case"])
    calibration, limits = benchmark.flags.calibrate(cases[other], structures[there], 0.1)
    first = checked.iloc[0]  # sub-000 is of half 0
    assert first["chance"] == pytest.approx(calibration.failure(cases.iloc[0].to_dict()))
    assert first["unusual_contrast"] == (first["chance"] > limits.failure)


def test_stated_chances_of_outlines_come_true(benchmark: SimpleNamespace) -> None:
    _, outlines = benchmark.flags.cross_checked(*made_up(400), 0.1)
    table = benchmark.flags.reliability(outlines)
    many = table[table["structures"] >= 60]
    assert len(many) >= 4 and (many["stated"] - many["good"]).abs().max() < 0.15
    assert table["structures"].sum() == (outlines["right"] & outlines["chance"].notna()).sum()
    text = "\n".join(benchmark.flags.outline_lines(outlines))
    assert "`low_confidence`" in text and "| 0.9 to 1.0 |" in text


def test_scans_that_are_all_right_calibrate_nothing(benchmark: SimpleNamespace) -> None:
    cases, structures = made_up(4)
    with pytest.raises(SystemExit, match=r"all 12 scans of a half are right.*Fix: add patients"):
        benchmark.flags.calibrate(cases.assign(right=True), structures, 0.1)


def test_wilson_by_hand(benchmark: SimpleNamespace) -> None:
    assert benchmark.flags.rate(pd.Series([True] * 8 + [False] * 2)) == "8 of 10: 80 % (49 to 94)"
    assert benchmark.flags.rate(pd.Series([], dtype=bool)) == "none"


def test_what_is_written_is_what_a_plan_takes_also_from_two_folders(
    benchmark: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        cases, structures = made_up(60, number)
        cases.assign(subject=cases["subject"] + f"-{number}").to_csv(folder / "cases.csv", index=False)
        structures.assign(subject=structures["subject"] + f"-{number}").to_csv(folder / "structures.csv", index=False)
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    monkeypatch.setattr(sys, "argv", ["x", "--cases", *folders, "-o", str(tmp_path / "out")])
    benchmark.flags.main()
    content = json.loads((tmp_path / "out" / "flags.json").read_text())
    calibration = FlagCalibration.from_dict(content["flags"])
    assert set(calibration.failure.weights) == set(TRAITS) and "120 patients" in calibration.calibrated_on
    assert LevelThresholds.from_dict(content["decoding"]).ambiguous_margin >= 0
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 5000
    assert "| all |" in (tmp_path / "out" / "report.md").read_text()


def test_variants_of_a_phantom_are_measured(benchmark: SimpleNamespace, tiny_data: Path, tmp_path: Path) -> None:
    from scored_scans import labeled_scans

    from cps4_monai.inference.segment import Segmenter

    shutil.copytree(tiny_data, tmp_path / "phantom")
    segmenter = Segmenter(device="cpu")
    (scan,) = labeled_scans(tmp_path / "phantom" / "datalist.json", "validation", 20, 1)
    made = list(benchmark.cases.variants(scan, segmenter.bundle.anatomy, 0, False))
    groups = [group for group, _, _ in made]
    assert groups[0] == "whole" and {"contrast", "spoiled"} <= set(groups)
    again = dict((name, s) for _, name, s in benchmark.cases.variants(scan, segmenter.bundle.anatomy, 0, False))
    drawn = next(s for _, name, s in made if name == "drawn")
    assert np.array_equal(drawn.image, again["drawn"].image) and not np.array_equal(drawn.image, scan.image)
    row, structures = benchmark.cases.measured(segmenter, scan)
    assert set(TRAITS) <= row.keys() and np.isfinite([row[name] for name in TRAITS]).all()
    assert all(0 <= s["dice"] <= 1 and 0 <= s["confidence"] <= s["outline_confidence"] <= 1 for s in structures)
