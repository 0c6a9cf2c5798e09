from __future__ import annotations

import math

import numpy as np
import pytest

from cps4_monai.metrics.bootstrap import bootstrap_mean, paired_comparison


def test_interval_holds_the_mean_and_is_repeatable():
    values = [0.7, 0.8, 0.9, 0.85, 0.6]
    first, second = bootstrap_mean(values, seed=3), bootstrap_mean(values, seed=3)
    assert first == second
    assert first.mean == pytest.approx(np.mean(values)) and first.n == 5
    assert min(values) <= first.low < first.mean < first.high <= max(values)


def test_other_seed_other_draws():
    values = np.linspace(0, 1, 30)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_wider_confidence_gives_a_wider_interval():
    values = np.random.default_rng(0).normal(size=40)
    narrow, wide = bootstrap_mean(values, confidence=0.5), bootstrap_mean(values, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        interval = bootstrap_mean(rng.normal(0.8, 0.1, 40), resamples=400, seed=trial)
        hits += interval.low <= 0.8 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_values_that_were_not_measured_are_left_out_and_not_counted():
    assert bootstrap_mean([0.5, float("nan"), 0.7]).n == 2
    assert bootstrap_mean([0.5, float("nan"), 0.7]).mean == pytest.approx(0.6)


@pytest.mark.parametrize(("values", "n"), [([], 0), ([float("nan")], 0), ([0.4], 1)])
def test_too_few_patients_have_no_interval(values, n):
    interval = bootstrap_mean(values)
    assert interval.n == n and math.isnan(interval.low) and math.isnan(interval.high)
    assert str(interval) == ("not measured" if n == 0 else "0.400")


def test_equal_values_have_an_interval_of_no_width():
    interval = bootstrap_mean([0.5] * 4)
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)


def test_weights_make_a_patient_with_more_slices_count_more():
    assert bootstrap_mean([0.0, 1.0], weights=[1, 3]).mean == pytest.approx(0.75)
    values, weights = np.random.default_rng(0).random((2, 30))
    weighted = bootstrap_mean(values, weights)
    assert weighted.low < weighted.mean < weighted.high
    assert weighted.mean == pytest.approx((values * weights).sum() / weights.sum())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="one of each per patient"):
        bootstrap_mean([1.0, 2.0], weights=[1.0])
    with pytest.raises(ValueError, match="confidence is 95"):
        bootstrap_mean([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="positive"):
        bootstrap_mean([1.0, 2.0], weights=[0.0, 1.0])


def test_paired_difference_is_that_of_the_pairs():
    rng = np.random.default_rng(5)
    base = rng.random(12)
    result = paired_comparison(base + 0.1, base)
    assert result.difference.mean == pytest.approx(0.1) and result.wins == 12
    assert result.p_value == pytest.approx(2 / 2**12)  # all signs alike: the exact two-sided value
    assert paired_comparison(base, base + 0.1).difference.mean == pytest.approx(-0.1)


def test_paired_comparison_of_equal_methods():
    result = paired_comparison([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert result.p_value == 1.0 and result.difference.mean == 0 and result.wins == 0


def test_pairs_with_a_missing_side_are_left_out():
    assert paired_comparison([0.5, float("nan"), 0.9], [0.4, 0.2, float("nan")]).difference.n == 1
    assert math.isnan(paired_comparison([float("nan")], [0.4]).p_value)


def test_other_lengths_are_an_error():
    with pytest.raises(ValueError, match="same patients"):
        paired_comparison([0.1], [0.1, 0.2])
