"""Calibrates the flags for given weights, over patients that their training never saw, and says how well they hold.

    python benchmarks/flag_calibration.py --datalist SPIDER/splits.json:validation LUMBAR_T1/datalist.json:labeled \
        --weights BUNDLE -o FOLDER [--write flags]
    python benchmarks/flag_calibration.py --cases FOLDER [FOLDER] -o FOLDER      # of earlier runs, without the network

Each patient is segmented whole, cropped at the top and bottom, in other contrasts and spoiled (flag_cases.py). A scan
is wrong where at least two labeled structures were missed or got another level. Patients are split into two halves.
What is calibrated on one half is checked on the other, and the other way round: the rates are of patients that chose
nothing. What is written comes from all patients. Three things are calibrated:

- the chance that a result cannot be used (`unusual_contrast`): a logistic regression on the result's traits;
- its limit and that of the margin of the numbering (`level_ambiguous`), together, so that most wrong scans get an
  alarm at a bounded share of right ones (`--max-false-alarm`, of all right scans and of the whole ones among them;
  scans without the lowest structure in view have an alarm of their own, and are left out of that choice);
- the chance that the outline of a structure is good (`low_confidence`): a logistic regression on the mean
  probability of its kind.

FOLDER gets cases.csv, structures.csv, flags.json (a plan's ``decoding`` and ``flags``), report.md (with the rates of
the plan as it is, too) and reliability.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

GOOD_DICE = 0.8
BY = "outline_confidence"  # what the chance of a good outline is told from
GRID = np.array([0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15])
MIN_EACH = 20  # good and bad structures that a regression of their kind needs; kinds with fewer share one
MIN_WRONG = 5  # wrong scans of a group of variants that counts by itself


@dataclass(frozen=True)
class Limits:
    """Of the alarms: raised above the chance ``failure``, and below the ``margin`` of an anchored numbering."""

    failure: float
    margin: float


def fit_chance(values: pd.DataFrame, happened: pd.Series) -> Any:
    """Logistic regression in the units of the values, lightly regularised in those of their spread.

    Raises:
        SystemExit: nothing to tell apart.
    """
    from sklearn.linear_model import LogisticRegression

    from cps4_monai.levels.flag_calibration import Chance

    if happened.nunique() < 2:
        which = "wrong" if happened.any() else "right"
        raise SystemExit(
            f"all {len(happened)} scans of a half are {which}; expected both kinds. The cases are kept. Fix: add "
            "patients or data sets, with --cases also those of other runs"
        )
    centre, spread = values.mean(), values.std().clip(lower=1e-6)
    model = LogisticRegression(C=1.0).fit(((values - centre) / spread).to_numpy(), happened.to_numpy())
    weights = pd.Series(model.coef_[0], index=values.columns) / spread
    intercept = float(model.intercept_[0] - (weights * centre).sum())
    return Chance(round(intercept, 5), {name: round(float(weight), 5) for name, weight in weights.items()})


def alarms(cases: pd.DataFrame, chance: np.ndarray, limits: Limits) -> np.ndarray:
    """Whether each case gets any alarm."""
    fixed = cases["fixed"].to_numpy(dtype=bool)
    return (chance > limits.failure) | ambiguous(cases, limits) | fixed


def ambiguous(cases: pd.DataFrame, limits: Limits) -> np.ndarray:
    """Whether `level_ambiguous` is raised for each case."""
    return cases["anchored"].to_numpy(dtype=bool) & (cases["margin"].to_numpy() < limits.margin)


def choose_limits(cases: pd.DataFrame, chance: np.ndarray, max_false_alarm: float) -> Limits:
    """Limits with the highest mean hit rate over groups of variants among those within the bound.

    Only anchored cases count: the others have the alarm `unanchored`, whatever the limits. Candidates are quantiles of
    the right cases; no limit may be so low that nothing is ever below or above it.
    """
    anchored = cases["anchored"].to_numpy(dtype=bool)
    cases, chance = cases[anchored], chance[anchored]
    right, whole = cases["right"].to_numpy(dtype=bool), (cases["group"] == "whole").to_numpy()
    groups = [(cases["group"] == g).to_numpy() & ~right for g in cases["group"].unique()]
    groups = [g for g in groups if g.sum() >= MIN_WRONG] or [~right]

    def score(limits: Limits) -> tuple[float, float]:
        raised = alarms(cases, chance, limits)
        rates = [raised[right].mean(), raised[right & whole].mean() if (right & whole).any() else 0.0]
        hits = float(np.mean([raised[g].mean() for g in groups]))
        return (hits, -rates[0]) if max(rates) <= max_false_alarm else (-1.0, -max(rates))

    choices = np.quantile(chance[right], 1.0 - GRID), _quantiles(cases["margin"].to_numpy()[right])
    return max((Limits(*map(float, c)) for c in itertools.product(*choices)), key=score)


def _quantiles(margins: np.ndarray) -> np.ndarray:
    finite = margins[np.isfinite(margins)]
    return np.quantile(finite, GRID) if len(finite) else np.zeros(1)


def fit_outlines(structures: pd.DataFrame) -> dict[str, Any]:
    """Chance of a good outline by kind; kinds with few good or bad ones share a regression over all, or have none."""
    from cps4_monai.levels.flag_calibration import OUTLINE_RANGE, log_odds

    values = structures[[BY]].map(lambda value: log_odds(value, OUTLINE_RANGE))
    good = structures["dice"] >= GOOD_DICE

    def fitted(rows: pd.Index) -> Any:
        few = min(good[rows].sum(), (~good[rows]).sum()) < MIN_EACH
        return None if few else fit_chance(values.loc[rows], good[rows])

    shared = fitted(structures.index)
    kinds = {str(kind): fitted(part.index) or shared for kind, part in structures.groupby("kind")}
    return {kind: chance for kind, chance in kinds.items() if chance is not None}


def calibrate(cases: pd.DataFrame, structures: pd.DataFrame, max_false_alarm: float) -> tuple[Any, Limits]:
    """The calibration, and the limits of the margin with that of the chance of failure."""
    from cps4_monai.levels.flag_calibration import FlagCalibration
    from cps4_monai.levels.traits import TRAITS

    failure = fit_chance(cases[list(TRAITS)], ~cases["right"])
    chance = chances(cases, failure)
    limits = choose_limits(cases, chance, max_false_alarm)
    outline = fit_outlines(structures[structures["right"]])
    return FlagCalibration(outline, GOOD_DICE, 0.5, failure, round(limits.failure, 4)), limits


def chances(cases: pd.DataFrame, chance: Any) -> np.ndarray:
    return np.array([chance(row) for row in cases[list(chance.weights)].to_dict("records")])


def cross_checked(
    cases: pd.DataFrame, structures: pd.DataFrame, max_false_alarm: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cases and structures with what a calibration on the other half of the patients says of them."""
    from cps4_monai.levels.statistics import Confidence

    half = halves(cases["subject"])
    checked, outlines = [], []
    for number in (0, 1):
        here, there = cases[cases["subject"].map(half) == number], cases[cases["subject"].map(half) != number]
        parts, others = (structures[structures["case"].isin(c["case"])] for c in (here, there))
        calibration, limits = calibrate(there, others, max_false_alarm)
        chance = chances(here, calibration.failure)
        raised = {"unusual_contrast": chance > limits.failure, "level_ambiguous": ambiguous(here, limits)}
        checked.append(here.assign(chance=chance, alarm=alarms(here, chance, limits), **raised))
        columns = (parts[name] for name in ("kind", "confidence", BY))
        stated = [calibration.outline_chance(k, Confidence(c, o)) for k, c, o in zip(*columns, strict=True)]
        outlines.append(parts.assign(chance=np.array(stated, dtype=float)))
    return pd.concat(checked).sort_index(), pd.concat(outlines).sort_index()


def by_plan(cases: pd.DataFrame, plan: Any) -> pd.DataFrame:
    """Cases with the alarms that the plan of some weights raises as it is."""
    from cps4_monai.levels.flag_calibration import FlagCalibration
    from cps4_monai.levels.settings import LevelThresholds

    calibration = FlagCalibration.from_dict(plan.flags)
    limits = Limits(calibration.failure_limit, LevelThresholds.from_dict(plan.decoding).ambiguous_margin)
    chance = np.zeros(len(cases)) if calibration.failure is None else chances(cases, calibration.failure)
    raised = {"unusual_contrast": chance > limits.failure, "level_ambiguous": ambiguous(cases, limits)}
    return cases.assign(alarm=alarms(cases, chance, limits), **raised)


def halves(subjects: pd.Series) -> dict[str, int]:
    """Half of each patient: alternating through the names in order."""
    return {name: index % 2 for index, name in enumerate(sorted(subjects.unique()))}


def rate(flags: pd.Series) -> str:
    """Count, share and Wilson's 95 % interval."""
    from scipy.stats import binomtest

    hits, total = int(flags.sum()), len(flags)
    if not total:
        return "none"
    low, high = binomtest(hits, total).proportion_ci(method="wilson")
    return f"{hits} of {total}: {100 * hits / total:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def alarm_table(checked: pd.DataFrame) -> list[str]:
    """Share of right and wrong cases with any alarm and with each calibrated one, by group of variants."""
    lines = [
        "| scans | any alarm: right scans | wrong scans | `unusual_contrast`: both | `level_ambiguous`: both |",
        "|---" * 5 + "|",
    ]
    parts = [(", ".join(map(str, name)), part) for name, part in checked.groupby(["data", "group"], sort=False)]
    for name, part in [*parts, ("all", checked)]:
        right, wrong = part[part["right"]], part[~part["right"]]
        single = [
            f"{int(right[f].sum())} of {len(right)}; {int(wrong[f].sum())} of {len(wrong)}"
            for f in ("unusual_contrast", "level_ambiguous")
        ]
        lines.append(f"| {name} | {rate(right['alarm'])} | {rate(wrong['alarm'])} | {single[0]} | {single[1]} |")
    return lines


def reliability(outlines: pd.DataFrame) -> pd.DataFrame:
    """Stated chance of a good outline against the share that is good, in ten bins, of scans numbered right."""
    rated = outlines[outlines["right"] & outlines["chance"].notna()]
    bins = pd.cut(rated["chance"], np.linspace(0, 1, 11), include_lowest=True, labels=False)
    table = (
        rated.assign(good=rated["dice"] >= GOOD_DICE)
        .groupby(bins)
        .agg(structures=("good", "size"), stated=("chance", "mean"), good=("good", "mean"))
    )
    return table.reset_index(drop=True)


def outline_lines(outlines: pd.DataFrame) -> list[str]:
    """What `low_confidence` says and what is true of it."""
    rated = outlines[outlines["right"] & outlines["chance"].notna()]
    bad, named = rated["dice"] < GOOD_DICE, rated["chance"] < 0.5
    stated = 100 * (1 - rated.loc[named, "chance"].mean())
    lines = [
        f"`low_confidence` (chance of Dice {GOOD_DICE:g} below 50 %) names {named.sum()} of {len(rated)} whole "
        f"structures of scans numbered right. Stated chance that they are bad: {stated:.0f} %; "
        f"bad: {rate(bad[named])}. Of the bad ones it names {rate(named[bad])}.",
        "",
        "| stated chance of a good outline | structures | mean stated | good |",
        "|---" * 4 + "|",
    ]
    for row in reliability(outlines).itertuples():
        low = int(row.stated * 10) / 10
        lines.append(f"| {low:.1f} to {low + 0.1:.1f} | {row.structures} | {row.stated:.2f} | {row.good:.2f} |")
    return lines


def reliability_plot(outlines: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure

    table = reliability(outlines)
    figure = Figure(figsize=(4.2, 4.0), dpi=110)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axis.plot(table["stated"], table["good"], marker="o")
    for row in table.itertuples():
        axis.annotate(
            str(row.structures), (row.stated, row.good), textcoords="offset points", xytext=(5, -9), fontsize=7
        )
    axis.set(
        xlabel="stated chance of a good outline",
        ylabel=f"share with Dice of {GOOD_DICE:g} or more",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    figure.tight_layout()
    figure.savefig(path)


def collect(arguments: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cases and structures, segmented now."""
    from flag_cases import measured, variants
    from scored_scans import labeled_scans

    from cps4_monai.inference.segment import Segmenter
    from cps4_monai.levels.flag_calibration import FlagCalibration

    segmenter = Segmenter(arguments.weights)
    segmenter.calibration = FlagCalibration()  # alarms that are calibrated here hide no others
    anatomy, started = segmenter.bundle.anatomy, time.monotonic()
    cases: list[dict[str, Any]] = []
    structures: list[dict[str, Any]] = []
    for source in arguments.datalist:
        datalist, _, section = source.rpartition(":")
        scans = list(labeled_scans(Path(datalist), section, anatomy.num_classes, arguments.limit))
        for index, scan in enumerate(scans):
            for group, variant, changed in variants(scan, anatomy, index, arguments.all_variants):
                row, parts = measured(segmenter, changed)
                common = {
                    "case": len(cases),
                    "data": scan.data,
                    "subject": scan.subject,
                    "group": group,
                    "variant": variant,
                }
                cases.append({**common, **row})
                structures += [{**common, "right": row["right"], **part} for part in parts]
            print(
                f"{source}: {index + 1} of {len(scans)} patients, {time.monotonic() - started:.0f} s", file=sys.stderr
            )
    return pd.DataFrame(cases), pd.DataFrame(structures)


def read_cases(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cases and structures of several runs, numbered on."""
    cases, structures, before = [], [], 0
    for folder in folders:
        cases.append(pd.read_csv(folder / "cases.csv").assign(case=lambda frame, before=before: frame["case"] + before))
        parts = pd.read_csv(folder / "structures.csv")
        if BY not in parts:
            raise SystemExit(
                f"{folder / 'structures.csv'} has no column {BY}: it is of an earlier version; collect again"
            )
        structures.append(parts.assign(case=parts["case"] + before))
        before += len(cases[-1])
    return pd.concat(cases, ignore_index=True), pd.concat(structures, ignore_index=True)


def written(arguments: argparse.Namespace, calibration: Any, limits: Limits) -> dict[str, Any]:
    """The calibration as a plan has it; with ``--write`` it, or its flags, are put into the plan of the weights."""
    from cps4_monai.plan import read_plan, write_plan

    margins = {"ambiguous_margin": round(max(limits.margin, 0.0), 3)}
    content = {"decoding": margins, "flags": calibration.to_dict()}
    (arguments.output / "flags.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.write:
        path = plan_file(arguments)
        plan = read_plan(path)
        decoding = {**plan.decoding, **(margins if arguments.write == "all" else {})}
        write_plan(path.parent, replace(plan, decoding=decoding, flags=content["flags"]))
    return content


def plan_file(arguments: argparse.Namespace) -> Path:
    """The plan beside the weights."""
    from cps4_monai.bundle_root import find_bundle_root

    return next((arguments.weights or find_bundle_root()).rglob("plan.json"))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", nargs="+", metavar="FILE:SECTION", help="section: labeled or validation")
    parser.add_argument("--weights", type=Path, help="folder of a bundle; default: the one of this package")
    parser.add_argument("--all-variants", action="store_true", help="of each patient; default: six, in turns")
    parser.add_argument("--limit", type=int, help="patients of each data set; default: all")
    parser.add_argument("--cases", type=Path, nargs="+", metavar="FOLDER", help="folders of earlier runs")
    parser.add_argument("--max-false-alarm", type=float, default=0.08, help="aimed at, so that 0.10 holds for others")
    parser.add_argument(
        "--write",
        choices=("flags", "all"),
        help="what to put into the plan of the weights: the chances with their limits, or the limit of the margin, too",
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if bool(arguments.datalist) == bool(arguments.cases):
        parser.error("give --datalist, or --cases with folders of earlier runs")
    return arguments


def main() -> None:
    from cps4_monai.plan import read_plan

    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.cases:
        cases, structures = read_cases(arguments.cases)
    else:
        cases, structures = collect(arguments)
        for name, frame in (("cases.csv", cases), ("structures.csv", structures)):
            frame.to_csv(arguments.output / name, index=False, float_format="%.6g")
    checked, outlines = cross_checked(cases, structures, arguments.max_false_alarm)
    calibration, limits = calibrate(cases, structures, arguments.max_false_alarm)
    counts = ", ".join(f"{len(part['subject'].unique())} patients of {name}" for name, part in cases.groupby("data"))
    shipped = by_plan(cases, read_plan(plan_file(arguments)))
    content = written(arguments, replace(calibration, calibrated_on=f"{counts}; {len(cases)} scans"), limits)
    lines = [
        f"{counts}; {len(cases)} scans, {int((~cases['right']).sum())} wrong",
        "",
        *alarm_table(checked),
        "",
        "With the limits of the plan as it was, whatever scans they come from:",
        "",
        *alarm_table(shipped),
        "",
        *outline_lines(outlines),
    ]
    report = "\n".join(lines) + f"\n\n{json.dumps(content)}\n"
    (arguments.output / "report.md").write_text(report, encoding="utf-8")
    reliability_plot(outlines, arguments.output / "reliability.png")
    print(report)


if __name__ == "__main__":
    main()
