"""Percentile bootstrap intervals over patients, and paired comparisons of two methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 5000


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; NaN where there is nothing to average, bounds NaN with fewer than two patients.

    Attributes:
        mean: (weighted) mean over the patients.
        low: lower bound.
        high: upper bound.
        n: patients that have a value.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "not measured"
        return f"{self.mean:.3f}" if np.isnan(self.low) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class PairedComparison:
    """Difference of two methods on the same patients.

    Attributes:
        difference: interval of the mean of (first - second).
        p_value: two-sided Wilcoxon signed-rank test; 1 where all differences are zero, NaN with no pair.
        wins: patients on which the first is higher.
    """

    difference: Interval
    p_value: float
    wins: int


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean over patients with its percentile bootstrap interval; patients are drawn, never slices or classes.

    Args:
        values: one value per patient; NaN: not measured, left out and not counted.
        weights: one weight per patient, e.g. its number of slices for convention (a), which averages over slices: a
            patient is then drawn with all its slices. None: all alike.
        confidence: between 0 and 1.
        resamples: draws of the bootstrap.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: weights of another length or not positive, or a confidence outside (0, 1).
    """
    data = np.asarray(values, dtype=float)
    weight = np.ones_like(data) if weights is None else np.asarray(weights, dtype=float)
    if data.ndim != 1 or weight.shape != data.shape:
        raise ValueError(f"values {data.shape} and weights {weight.shape}: expected one of each per patient")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, e.g. 0.95")
    measured = np.isfinite(data)
    data, weight = data[measured], weight[measured]
    if (weight <= 0).any():
        raise ValueError("weights must be positive")
    if not data.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(np.average(data, weights=weight))
    if data.size < 2:
        return Interval(mean, float("nan"), float("nan"), 1)
    result = stats.bootstrap(
        (data, weight),
        lambda x, w, axis: (x * w).sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high), data.size)


def paired_comparison(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedComparison:
    """Bootstrap interval of the mean paired difference (first - second) and the Wilcoxon signed-rank test.

    Args:
        first: one value per patient (average over seeds beforehand); pairs with a NaN on either side are left out.
        second: the same patients in the same order.
        confidence: between 0 and 1.
        resamples: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: the two have different lengths.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"first has {a.size} patients and second {b.size}; pairs need the same patients")
    difference = (a - b)[np.isfinite(a) & np.isfinite(b)]
    interval = bootstrap_mean(difference, confidence=confidence, resamples=resamples, seed=seed)
    if not difference.size:
        return PairedComparison(interval, float("nan"), 0)
    p_value = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
    return PairedComparison(interval, p_value, int((difference > 0).sum()))
