"""The statistics of a study: seeds averaged per patient, patients drawn, methods compared on the same patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cps4_monai.bench.results import StudyResults
from cps4_monai.metrics.bootstrap import Interval, PairedComparison, bootstrap_mean, paired_comparison
from cps4_monai.metrics.conventions import CONVENTIONS

FULL = "100"


@dataclass(frozen=True)
class MethodRow:
    """A method at a labeled share.

    Attributes:
        method: short name.
        share: labeled share.
        seeds: those that are done.
        dice: convention -> mean over patients (a: over slices) of the mean over seeds, with its bootstrap interval.
        seed_sd: convention -> standard deviation over seeds of each seed's mean; NaN with one seed.
        missed: structures of the labels without a voxel, mean over seeds.
        identified: share of the labeled structures with the right label within 20 mm, mean over seeds.
        labeled: structures in the labels.
        seconds: of one training, mean over seeds.
    """

    method: str
    share: str
    seeds: tuple[int, ...]
    dice: dict[str, Interval]
    seed_sd: dict[str, float]
    missed: float
    identified: float
    labeled: int
    seconds: float


@dataclass(frozen=True)
class Difference:
    """A method against the baseline at one share, on the seeds that both have.

    Attributes:
        method: short name.
        baseline: short name.
        share: labeled share.
        seeds: those that both have.
        by_subject: method minus baseline, seeds averaged, by subject.
        comparison: mean difference, its interval and the Wilcoxon signed-rank test.
    """

    method: str
    baseline: str
    share: str
    seeds: tuple[int, ...]
    by_subject: pd.Series
    comparison: PairedComparison


def cases_of(results: StudyResults, method: str, share: str) -> pd.DataFrame:
    """Rows of the cases of a method at a share, all seeds."""
    cases = results.cases
    return cases[(cases["method"] == method) & (cases["share"] == share)]


def by_subject(cases: pd.DataFrame, column: str, seeds: Sequence[int] | None = None) -> pd.Series:
    """Subject -> value, scans of a subject averaged within a seed, then seeds averaged.

    Args:
        cases: of one method and share.
        column: e.g. "dice_b".
        seeds: to take; None: all.
    """
    kept = cases if seeds is None else cases[cases["seed"].isin(seeds)]
    return kept.groupby(["subject", "seed"])[column].mean().groupby("subject").mean().sort_index()


def _weights(cases: pd.DataFrame) -> pd.Series:
    """Subject -> slices, the weight of a subject in convention (a)."""
    return cases.groupby(["subject", "seed"])["num_slices"].sum().groupby("subject").mean().sort_index()


def method_rows(results: StudyResults) -> list[MethodRow]:
    """A row per method and share that is there, by share, methods in the study's order."""
    rows = []
    for share in results.shares:
        for method in results.methods:
            cases = cases_of(results, method, share)
            if not cases.empty:
                rows.append(_row(results, cases, method, share))
    return rows


def _row(results: StudyResults, cases: pd.DataFrame, method: str, share: str) -> MethodRow:
    weights = _weights(cases)
    dice, spread = {}, {}
    for convention in CONVENTIONS:
        values = by_subject(cases, f"dice_{convention}")
        own = weights.to_numpy() if convention == "a" else None
        dice[convention] = bootstrap_mean(values.to_numpy(), own)
        means = []
        for _, group in cases.groupby("seed"):
            one = by_subject(group, f"dice_{convention}")
            means.append(float(np.average(one, weights=weights if convention == "a" else None)))
        spread[convention] = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    totals = cases.groupby("seed")[["num_missed", "num_identified", "num_labeled"]].sum()
    times = [cell.done["seconds"]["training"] for cell in results.cells if (cell.method, cell.share) == (method, share)]
    return MethodRow(
        method=method,
        share=share,
        seeds=tuple(sorted(int(seed) for seed in cases["seed"].unique())),
        dice=dice,
        seed_sd=spread,
        missed=float(totals["num_missed"].mean()),
        identified=float((totals["num_identified"] / totals["num_labeled"]).mean()),
        labeled=int(totals["num_labeled"].max()),
        seconds=float(np.mean(times)),
    )


def differences_to(results: StudyResults, baseline: str, column: str = "dice_b") -> list[Difference]:
    """Every other method against the baseline at each share where both are there.

    Args:
        results: of the study.
        baseline: short name of a method.
        column: e.g. "dice_b".

    Raises:
        ValueError: no cell of the baseline is there.
    """
    if baseline not in results.methods:
        raise ValueError(f"baseline is {baseline!r}; expected one of {list(results.methods)}")
    found = []
    for share in results.shares:
        ours = cases_of(results, baseline, share)
        for method in results.methods:
            theirs = cases_of(results, method, share)
            seeds = sorted(set(ours["seed"]) & set(theirs["seed"]))
            if method == baseline or not seeds:
                continue
            pairs = pd.concat([by_subject(theirs, column, seeds), by_subject(ours, column, seeds)], axis=1).dropna()
            first, second = pairs.iloc[:, 0], pairs.iloc[:, 1]
            found.append(
                Difference(
                    method=method,
                    baseline=baseline,
                    share=share,
                    seeds=tuple(int(seed) for seed in seeds),
                    by_subject=first - second,
                    comparison=paired_comparison(first.to_numpy(), second.to_numpy()),
                )
            )
    return found


def gap_closed(rows: Sequence[MethodRow], method: str) -> dict[tuple[str, str], float]:
    """How much of the way from ``method`` at a share to ``method`` with all subjects labeled the others go, by (b).

    Args:
        rows: of the study.
        method: usually "supervised".

    Returns:
        (method, share) -> 0 for no gain, 1 for as good as all labels; empty where there is no upper bound, and without
        the shares at which there is no gap to close.
    """
    mean = {(row.method, row.share): row.dice["b"].mean for row in rows}
    upper = mean.get((method, FULL))
    closed = {}
    for (name, share), value in mean.items():
        lower = mean.get((method, share))
        if upper is not None and lower is not None and name != method and share != FULL and upper > lower:
            closed[(name, share)] = (value - lower) / (upper - lower)
    return closed


def best_methods(rows: Sequence[MethodRow]) -> dict[str, str]:
    """Share -> the method with the highest mean Dice (b), where there is more than one to choose from."""
    best: dict[str, MethodRow] = {}
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.share] = counts.get(row.share, 0) + 1
        if row.share not in best or row.dice["b"].mean > best[row.share].dice["b"].mean:
            best[row.share] = row
    return {share: row.method for share, row in best.items() if counts[share] > 1}


def structure_means(results: StudyResults, share: str) -> pd.DataFrame:
    """Mean Dice by structure (rows: code, name) and method (columns): seeds averaged, subjects whose label has it."""
    frame = results.structures
    kept = frame[(frame["share"] == share) & frame["state"].isin(["ok", "missed"])]
    per_subject = kept.groupby(["method", "code", "name", "subject"])["dice"].mean()
    table = per_subject.groupby(["code", "name", "method"]).mean().unstack("method")
    return table[[method for method in results.methods if method in table.columns]]
