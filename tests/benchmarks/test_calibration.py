"""Thresholds chosen from known cases."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

CALIBRATION = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "calibration.py"))
calibrate, choose_threshold = CALIBRATION["calibrate"], CALIBRATION["choose_threshold"]


def test_separable_cases_are_cut_between_them():
    values = np.array([0.1, 0.3, 1.1, 1.5, 2.0])
    wrong = np.array([True, True, False, False, False])
    assert choose_threshold(values, wrong, 0.0) == pytest.approx(0.7)


def test_rates_come_from_the_subjects_left_out():
    rng = np.random.default_rng(0)
    wrong = np.arange(60) % 3 == 0
    values = np.where(wrong, 0.5, 3.0) + 0.1 * rng.standard_normal(60)
    result = calibrate(values, wrong, [f"sub-{i // 6}" for i in range(60)], max_false_alarm=0.05)
    assert result.hit_rate == 1.0 and result.false_alarm_rate == 0.0
    assert 0.8 < result.threshold < 2.8 and (result.wrong, result.right) == (20, 40)


def test_the_bound_on_false_alarms_is_kept():
    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    wrong = np.array([False, False, False, False, True])
    threshold = choose_threshold(values, wrong, 0.25)
    assert np.mean(values[~wrong] < threshold) <= 0.25


def test_without_a_wrong_case_the_hit_rate_is_unknown():
    result = calibrate([1.0, 2.0], [False, False], ["a", "b"])
    assert np.isnan(result.hit_rate) and result.wrong == 0


@pytest.mark.parametrize(
    ("values", "wrong", "subjects", "rate", "match"),
    [
        ([1.0], [True, False], ["a"], 0.1, "as many"),
        ([], [], [], 0.1, "as many"),
        ([np.nan], [True], ["a"], 0.1, "finite"),
        ([1.0], [True], ["a"], 1.5, "rate"),
    ],
)
def test_bad_input_is_refused(values, wrong, subjects, rate, match):
    with pytest.raises(ValueError, match=match):
        calibrate(values, wrong, subjects, rate)
