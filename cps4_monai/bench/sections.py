"""A study's results as blocks of a page: tables, charts and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from cps4_monai.bench.charts import dice_by_share, share_name, subject_differences, validation_curves
from cps4_monai.bench.comparison import (
    Difference,
    MethodRow,
    best_methods,
    by_subject,
    cases_of,
    differences_to,
    gap_closed,
    mean_ranks,
    method_rows,
    structure_means,
)
from cps4_monai.bench.gallery import attention_gallery, worst_cases
from cps4_monai.bench.results import LOCALISATION, StudyResults
from cps4_monai.metrics.bootstrap import Interval
from cps4_monai.report.page import Block, Cell, Figure, Gallery, Section, Table, Text, number


def study_sections(
    results: StudyResults, baseline: str, chosen_on: StudyResults | None = None, pictures: bool = True
) -> list[Section]:
    """All sections of a study.

    Args:
        results: on the section of the data that is reported.
        baseline: short name of a method.
        chosen_on: the same study on the validation subjects, where another section is reported: what is best is
            chosen there.
        pictures: whether worst cases and attention maps are drawn.

    Raises:
        ValueError: an unknown baseline.
    """
    name, rows = results.manifest["study"], method_rows(results)
    differences = differences_to(results, baseline)
    best = best_methods(method_rows(chosen_on) if chosen_on is not None else rows)
    against = f"Difference of the mean Dice (b) of each subject, in points of 0.01, to {results.methods[baseline]}."
    return [
        Section(f"Study {name}", _about(results), results.manifest["description"]),
        Section(f"{name}: Dice", _dice(results, rows, best, chosen_on)),
        Section(f"{name}: against {results.methods[baseline]}", _against(results, differences, baseline), against),
        Section(f"{name}: every subject", _subjects(results, differences, baseline), "Dice (b), seeds averaged."),
        Section(
            f"{name}: by structure",
            _structures(results),
            "Dice, mean over the subjects whose label has the structure, seeds averaged; a missed one counts 0.",
        ),
        Section(
            f"{name}: learning curves",
            _curves(results),
            "Validation Dice (b) of the network that is kept; mean over seeds, and their range.",
        ),
        Section(
            f"{name}: prompt maps of stage 1",
            _prompt_maps(results),
            "Dice of the prompt map on the network's slices; ceiling: the true label through that grid and back. "
            "Pointing game: share of pairs (slice, structure) whose map is largest on the structure; right levels: "
            "share of the structures' pixels.",
        ),
        Section(f"{name}: attention", [Gallery(attention_gallery(results), wide=True)] if pictures else []),
        Section(
            f"{name}: failures",
            [Gallery(worst_cases(results), wide=True)] if pictures else [],
            "The case of the lowest Dice (b) of each method.",
        ),
    ]


def with_interval(interval: Interval, digits: int = 3, scale: float = 1.0, sign: bool = False) -> str:
    """ "0.612 [0.550, 0.671]"; a dash where there is nothing to average."""
    if not interval.n:
        return "–"
    form = f"{{:{'+' if sign else ''}.{digits}f}}".format
    mean = form(scale * interval.mean)
    if math.isnan(interval.low):
        return mean
    return f"{mean} [{form(scale * interval.low)}, {form(scale * interval.high)}]"


def _about(results: StudyResults) -> list[Block]:
    blocks: list[Block] = []
    if results.missing:
        total = len(results.missing) + len(results.cells)
        blocks.append(
            Text(f"{len(results.missing)} of {total} cells are not done: {', '.join(results.missing)}", "warn")
        )
    failures = [
        f"{cell.name}: {row.case} ({row.reason})"
        for cell in results.cells
        for row in cell.evaluation.failures.itertuples()
    ]
    if failures:
        blocks.append(Text(f"Cases that could not be scored and enter nothing: {'; '.join(failures)}", "warn"))
    rows = []
    for setting, title, by_value in results.manifest["budget"]:
        equal = len(by_value) == 1
        text = next(iter(by_value)) if equal else "; ".join(f"{value}: {who}" for value, who in by_value.items())
        rows.append([Cell(title, title), Cell(setting, setting), Cell(text, text, "" if equal else "warn")])
    stated = results.manifest["may_differ"]
    caption = "The budget, the same for every method" + (
        f", but for what the study lets differ: {', '.join(stated)}" if stated else ""
    )
    return [*blocks, Table(("what", "setting", "value"), rows, caption + "."), *_costs(results)]


def _costs(results: StudyResults) -> list[Block]:
    """What equal budgets do not say: several networks or steps, and how long an iteration took."""
    rows = []
    for method, title in results.methods.items():
        own = results.costs[results.costs["method"] == method]
        if not own.empty:
            notes = "; ".join(dict.fromkeys(note for note in own["notes"] if note)) or "–"
            rows.append([Cell(title, title), Cell(notes, notes), number(own["seconds"].mean(), 3)])
    caption = "Cost of a method beside the equal budget; seconds measured, mean over its trainings."
    return [Table(("method", "per batch", "seconds per iteration"), rows, caption)]


def _dice(
    results: StudyResults, rows: Sequence[MethodRow], best: Mapping[str, str], chosen_on: StudyResults | None
) -> list[Block]:
    closed = gap_closed(results, results.manifest["gap"]) if results.manifest["gap"] else {}
    ranks, decoded_ranks = (
        {share: mean_ranks(results, share, column) for share in results.shares} for column in ("dice_b", "decoded_b")
    )
    columns = ["method", "labeled", "seeds", "Dice (b) [95 %]", "rank", "IoU (b)", "decoded (b) [95 %]", "rank decoded"]
    columns += [
        "levels right",
        "SD over seeds",
        "Dice (a)",
        "Dice (c)",
        "missed",
        "identified",
        "minutes",
        *(["gap closed"] if closed else []),
    ]
    table = []
    for row in rows:
        tone = "best" if best.get(row.share) == row.method else ""
        title = results.methods[row.method]
        cells = [
            Cell(title, title, tone),
            Cell(share_name(row.share), _share_number(row.share)),
            Cell(str(len(row.seeds)), len(row.seeds)),
            Cell(with_interval(row.dice["b"]), row.dice["b"].mean, tone),
            _rank(ranks[row.share].get(row.method)),
            number(row.iou.mean),
            Cell(with_interval(row.decoded), row.decoded.mean),
            _rank(decoded_ranks[row.share].get(row.method)),
            Cell("–" if math.isnan(row.decoded_right) else f"{row.decoded_right:.0%}", row.decoded_right),
            number(row.seed_sd["b"]),
            Cell(with_interval(row.dice["a"]), row.dice["a"].mean),
            Cell(with_interval(row.dice["c"]), row.dice["c"].mean),
            Cell(f"{row.missed:.1f} of {row.labeled}", row.missed),
            Cell(f"{row.identified:.1%}", row.identified),
            number(row.seconds / 60, 1),
        ]
        if closed:
            part = closed.get((row.method, row.share), float("nan"))
            cells.append(Cell("–", -math.inf, "muted") if math.isnan(part) else Cell(f"{part:.0%}", part))
        table.append(cells)
    blocks: list[Block] = [Table(columns, table)]
    if len({row.share for row in rows}) > 1:
        chart = dice_by_share(rows, results.methods)
        blocks.insert(0, Figure(chart, f"{results.manifest['study']}: Dice by labeled share", alt="Dice by share"))
    return [*blocks, *_best_texts(results, rows, best, chosen_on), *_gap_text(results, closed)]


def _rank(mean: float | None) -> Cell:
    """A mean rank over patients; the best sorts last, as the best Dice does."""
    return Cell("–", -math.inf, "muted") if mean is None else Cell(f"{mean:.1f}", -mean)


def _best_texts(
    results: StudyResults, rows: Sequence[MethodRow], best: Mapping[str, str], chosen_on: StudyResults | None
) -> list[Block]:
    mean = {(row.share, row.method): row.dice["b"].mean for row in rows}
    if chosen_on is None:
        parts = [f"{results.methods[m]} at {share_name(s)} ({mean[s, m]:.3f})" for s, m in best.items()]
        return [Text(f"Highest mean Dice (b): {'; '.join(parts)}.")] if parts else []
    there = {(row.share, row.method): row.dice["b"].mean for row in method_rows(chosen_on)}
    parts = [
        f"{results.methods[m]} at {share_name(s)} ({there[s, m]:.3f} there, {mean[s, m]:.3f} here)"
        for s, m in best.items()
        if (s, m) in mean
    ]
    return [Text(f"Best on the validation subjects, where methods are chosen: {'; '.join(parts)}.")] if parts else []


def _gap_text(results: StudyResults, closed: Mapping[tuple[str, str], float]) -> list[Block]:
    if not closed:
        return []
    title = results.methods[results.manifest["gap"]]
    return [
        Text(f"Gap closed: of the way from {title} at the same share to {title} with all training subjects labeled.")
    ]


def _against(results: StudyResults, differences: Sequence[Difference], baseline: str) -> list[Block]:
    blocks: list[Block] = []
    rows = []
    for share in dict.fromkeys(difference.share for difference in differences):
        own = [difference for difference in differences if difference.share == share]
        title = f"{results.manifest['study']}: every subject, {share_name(share)} labeled"
        blocks.append(Figure(subject_differences(own, results.methods, baseline), title, alt="differences by subject"))
    for difference in differences:
        title, interval = results.methods[difference.method], difference.comparison.difference
        p_value = difference.comparison.p_value
        rows.append(
            [
                Cell(title, title),
                Cell(share_name(difference.share), _share_number(difference.share)),
                Cell(", ".join(map(str, difference.seeds)), len(difference.seeds)),
                Cell(with_interval(interval, 1, 100, sign=True), interval.mean),
                *(Cell(f"{100 * value:+.1f}", value) for value in difference.others.values()),
                number(p_value, 3),
                Cell(f"{difference.comparison.wins} of {interval.n}", difference.comparison.wins),
                _decoded_difference(difference),
            ]
        )
    columns = (
        "method",
        "labeled",
        "seeds",
        "points of (b) [95 %]",
        "of (a)",
        "of (c)",
        "p",
        "better on",
        "decoded: points of (b)",
    )
    return [Table(columns, rows), *blocks] if rows else []


def _decoded_difference(difference: Difference) -> Cell:
    if difference.decoded is None:
        return Cell("–", -math.inf, "muted")
    return Cell(with_interval(difference.decoded.difference, 1, 100, sign=True), difference.decoded.difference.mean)


def _subjects(results: StudyResults, differences: Sequence[Difference], baseline: str) -> list[Block]:
    blocks: list[Block] = []
    gains = {(difference.method, difference.share): 100 * difference.by_subject for difference in differences}
    for share in results.shares:
        columns = {
            method: by_subject(cases, "dice_b")
            for method in results.methods
            if not (cases := cases_of(results, method, share)).empty
        }
        table = pd.DataFrame(columns)
        rows = []
        for subject, values in table.iterrows():
            cells = [Cell(str(subject), str(subject))]
            for method in table.columns:
                shown = number(float(values[method]))
                gain = gains.get((method, share), pd.Series(dtype=float)).get(subject)
                if gain is not None:
                    shown = Cell(f"{shown.text} ({gain:+.1f})", shown.sort)
                cells.append(shown)
            rows.append(cells)
        above = f"in brackets the points above {results.methods[baseline]}, on common seeds"
        caption = f"{share_name(share)} labeled; {above}."
        blocks.append(Table(("subject", *(results.methods[m] for m in table.columns)), rows, caption))
    return blocks


def _structures(results: StudyResults) -> list[Block]:
    blocks: list[Block] = []
    for share in results.shares:
        table = structure_means(results, share)
        rows = [
            [Cell(str(index[1]), float(index[0])), *(number(float(v)) for v in values)]
            for index, values in table.iterrows()
        ]
        caption = f"{share_name(share)} labeled."
        blocks.append(Table(("structure", *(results.methods[m] for m in table.columns)), rows, caption))
    return blocks


def _curves(results: StudyResults) -> list[Block]:
    curves = results.curves
    return [
        Figure(
            validation_curves(curves[curves["share"] == share], results.methods),
            f"{results.manifest['study']}: learning curves, {share_name(share)} labeled",
            alt="validation Dice by iteration",
        )
        for share in results.shares
    ]


PROMPT_MAP_COLUMNS = (
    "stage 1 of",
    "labeled",
    "seeds",
    "Dice (b)",
    "SD over seeds",
    "Dice (a)",
    "Dice (c)",
    "ceiling (b)",
    "pointing game, validation",
    "right levels, validation",
)


def _prompt_maps(results: StudyResults) -> list[Block]:
    """A row per labeled share and stage 1, whatever methods share it."""
    scores = results.prompt_maps
    means = scores[scores["subject"] == "mean"]
    rows = [
        _prompt_map_row(results, means, share, folders, methods)
        for share in results.shares
        for folders, methods in _users_of_stage1(results, means, share).items()
    ]
    return [Table(PROMPT_MAP_COLUMNS, rows)] if rows else []


def _users_of_stage1(results: StudyResults, means: pd.DataFrame, share: str) -> dict[tuple[str, ...], list[str]]:
    """Folders of a stage 1, one per seed, and the methods that used it."""
    users: dict[tuple[str, ...], list[str]] = {}
    for method in results.methods:
        own = means[(means["share"] == share) & (means["method"] == method)]
        if not own.empty:
            users.setdefault(tuple(sorted(own["folder"].unique())), []).append(method)
    return users


def _prompt_map_row(
    results: StudyResults, means: pd.DataFrame, share: str, folders: Sequence[str], methods: Sequence[str]
) -> list[Cell]:
    own = means[(means["share"] == share) & means["folder"].isin(folders)]
    by = own.drop_duplicates(["folder", "map", "convention"]).groupby(["map", "convention"])["dice"]
    mean, spread = by.mean(), by.std(ddof=1)
    where = results.localisation.drop_duplicates("folder").set_index("folder").reindex(folders)
    title = ", ".join(results.methods[method] for method in methods)
    return [
        Cell(title, title),
        Cell(share_name(share), _share_number(share)),
        Cell(str(len(folders)), len(folders)),
        number(mean["prompt_map", "b"]),
        number(spread["prompt_map", "b"]),
        number(mean["prompt_map", "a"]),
        number(mean["prompt_map", "c"]),
        number(mean["ceiling", "b"]),
        *(number(where[name].mean()) for name in LOCALISATION),
    ]


def _share_number(share: str) -> float:
    return float(share) if share[:1].isdigit() else math.inf
