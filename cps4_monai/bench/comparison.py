"""The statistics of a study: seeds averaged per patient, patients drawn, methods compared on the same patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        iou: by (b), as ``dice["b"]``.
        decoded: by (b), of the decoded levels; without values where they were not scored.
        decoded_right: share of the cases with all levels right once decoded, mean over seeds; NaN likewise.
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
    iou: Interval
    decoded: Interval
    decoded_right: float
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
        by_subject: method minus baseline in Dice (b), seeds averaged, by subject.
        comparison: mean difference in Dice (b), its interval and the Wilcoxon signed-rank test.
        others: convention (a), (c) -> mean difference; (a) weighs subjects by their slices.
        decoded: as ``comparison``, of the decoded levels; None where one of the two did not score them.
    """

    method: str
    baseline: str
    share: str
    seeds: tuple[int, ...]
    by_subject: pd.Series
    comparison: PairedComparison
    others: dict[str, float]
    decoded: PairedComparison | None


def comparable(results: StudyResults, share: str) -> list[StudyResults]:
    """The cells of a share that stand side by side: those of the seeds that all methods have, then of those with more.

    So it goes on: each part has methods with more seeds than the part before it, and the seeds that these share. There
    is none at all where the methods share no seed.
    """
    cells = [cell for cell in results.cells if cell.share == share]
    left = {method: {cell.seed for cell in cells if cell.method == method} for method in {c.method for c in cells}}
    parts, known = [], set[int]()
    while left and (shared := set.intersection(*left.values())):
        least = len(shared)
        if shared > known:
            parts.append(tuple(cell for cell in cells if cell.method in left and cell.seed in shared))
            known = shared
        else:  # those with the fewest share no more: the others go on without them
            least = min(map(len, left.values()))
        left = {method: own for method, own in left.items() if len(own) > least}
    return [replace(results, cells=part) for part in parts]


def on_common_seeds(results: StudyResults) -> StudyResults:
    """The cells that may be compared: of each share those of the seeds that all of its methods have, if there are any.

    A seed also draws the labeled patients: methods on other seeds have learned from other patients.
    """
    return replace(
        results, cells=tuple(cell for s in results.shares for part in comparable(results, s)[:1] for cell in part.cells)
    )


def cases_of(results: StudyResults, method: str, share: str) -> pd.DataFrame:
    """Rows of the cases of a method at a share, all seeds."""
    cases = results.cases
    return cases[(cases["method"] == method) & (cases["share"] == share)]


def by_subject(cases: pd.DataFrame, column: str) -> pd.Series:
    """Subject -> value, scans of a subject averaged within a seed, then seeds averaged.

    Args:
        cases: of one method and share.
        column: e.g. "dice_b".
    """
    return _by_run(cases, column).groupby("subject").mean().sort_index()


def paired(first: pd.DataFrame, second: pd.DataFrame, column: str) -> pd.DataFrame:
    """Subject -> both values, seeds averaged, of the subjects and seeds that both have a value of.

    Args:
        first: cases of one method at a share.
        second: cases of another one there.
        column: e.g. "dice_b".

    Returns:
        Columns ``first`` and ``second``, by subject.
    """
    runs = pd.DataFrame({"first": _by_run(first, column), "second": _by_run(second, column)}).dropna()
    return runs.groupby("subject").mean().sort_index()


def _by_run(cases: pd.DataFrame, column: str) -> pd.Series:
    """(subject, seed) -> value, scans of a subject averaged, by (a) with slices as weights; without empty ones."""
    if column != "dice_a":
        return cases.groupby(["subject", "seed"])[column].mean().dropna()
    scored = cases.dropna(subset=[column])
    sums = scored.assign(product=scored[column] * scored["num_slices"]).groupby(["subject", "seed"])
    return sums["product"].sum() / sums["num_slices"].sum()


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
        own = weights[values.index].to_numpy() if convention == "a" else None
        dice[convention] = bootstrap_mean(values.to_numpy(), own)
        means = []
        for _, group in cases.groupby("seed"):
            of_seed = by_subject(group, f"dice_{convention}")
            means.append(float(np.average(of_seed, weights=weights[of_seed.index] if convention == "a" else None)))
        spread[convention] = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    totals = cases.groupby("seed")[["num_missed", "num_identified", "num_labeled"]].sum()
    times = [cell.done["seconds"]["training"] for cell in results.cells if (cell.method, cell.share) == (method, share)]
    return MethodRow(
        method=method,
        share=share,
        seeds=tuple(sorted(int(seed) for seed in cases["seed"].unique())),
        dice=dice,
        iou=bootstrap_mean(by_subject(cases, "iou_b").to_numpy()),
        decoded=bootstrap_mean(by_subject(cases, "decoded_b").to_numpy()),
        decoded_right=float(cases["decoded_right"].astype(float).mean()),
        seed_sd=spread,
        missed=float(totals["num_missed"].mean()),
        identified=float((totals["num_identified"] / totals["num_labeled"]).mean()),
        labeled=int(totals["num_labeled"].max()),
        seconds=float(np.mean(times)),
    )


def differences_to(results: StudyResults, baseline: str) -> list[Difference]:
    """Every other method against the baseline at each share where both are there.

    Args:
        results: of the study.
        baseline: short name of a method.

    Raises:
        ValueError: no cell of the baseline is there.
    """
    if baseline not in results.methods:
        raise ValueError(f"baseline is {baseline!r}; expected one of {list(results.methods)}")
    differences = []
    for share in results.shares:
        ours = cases_of(results, baseline, share)
        for method in [name for name in results.methods if name != baseline]:
            theirs = cases_of(results, method, share)
            seeds = sorted(set(ours["seed"]) & set(theirs["seed"]))
            pairs = {convention: paired(theirs, ours, f"dice_{convention}") for convention in CONVENTIONS}
            if pairs["b"].empty:
                continue
            gains = {convention: pair["first"] - pair["second"] for convention, pair in pairs.items()}
            slices = _weights(ours)[gains["a"].index]
            decoded = paired(theirs, ours, "decoded_b")
            differences.append(
                Difference(
                    method=method,
                    baseline=baseline,
                    share=share,
                    seeds=tuple(int(seed) for seed in seeds),
                    by_subject=gains["b"],
                    comparison=paired_comparison(pairs["b"]["first"].to_numpy(), pairs["b"]["second"].to_numpy()),
                    others={"a": float(np.average(gains["a"], weights=slices)), "c": float(gains["c"].mean())},
                    decoded=None if decoded.empty else paired_comparison(*decoded[["first", "second"]].to_numpy().T),
                )
            )
    return differences


def mean_ranks(results: StudyResults, share: str, column: str = "dice_b") -> dict[str, float]:
    """Method -> its mean rank over the patients and seeds that all methods have, 1 for the best, ties sharing theirs.

    Friedman's ranks, which say how often a method leads and not by how much (Demšar, "Statistical comparisons of
    classifiers over multiple data sets", JMLR 2006).

    Args:
        results: of the study.
        share: labeled share.
        column: e.g. "dice_b" or "decoded_b"; seeds are averaged.

    Returns:
        Methods with a value, in the study's order; empty with fewer than two, or where they have no seed in common.
    """
    runs = {method: _by_run(cases_of(results, method, share), column) for method in results.methods}
    table = pd.DataFrame({method: values for method, values in runs.items() if not values.empty}).dropna()
    table = table.groupby("subject").mean() if len(table) else table
    if table.shape[1] < 2 or table.empty:
        return {}
    return {str(method): float(rank) for method, rank in table.rank(axis=1, ascending=False).mean().items()}


def gap_closed(results: StudyResults, method: str) -> dict[tuple[str, str], float]:
    """How much of the way from ``method`` at a share to ``method`` with all subjects labeled the others go, by (b).

    Method and share are compared on the subjects and seeds that both have, as in :func:`differences_to`, and that have
    a score with all labels.

    Args:
        results: of the study.
        method: usually "supervised".

    Returns:
        (method, share) -> 0 for no gain, 1 for as good as all labels; empty where there is no upper bound, and without
        the shares at which there is no gap to close.
    """
    full = by_subject(cases_of(results, method, FULL), "dice_b")
    closed = {}
    for share in [share for share in results.shares if share != FULL]:
        reference = cases_of(results, method, share)
        for name in [name for name in results.methods if name != method]:
            pairs = paired(cases_of(results, name, share), reference, "dice_b")
            means = pairs.join(full.rename("full"), how="inner").mean()
            reached, lower, upper = float(means["first"]), float(means["second"]), float(means["full"])
            if upper > lower:  # false, too, where nothing is there to average: NaN
                closed[(name, share)] = (reached - lower) / (upper - lower)
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
