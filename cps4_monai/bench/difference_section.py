"""The sections of a study that hold every method against the baseline, subject by subject."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from cps4_monai.bench.charts import share_name, subject_differences
from cps4_monai.bench.comparison import Difference, by_subject, cases_of
from cps4_monai.bench.results import StudyResults
from cps4_monai.bench.table_cells import share_cell, with_interval
from cps4_monai.report.page import Block, Cell, Figure, Table, number


def against_blocks(results: StudyResults, differences: Sequence[Difference], baseline: str) -> list[Block]:
    """Differences to the baseline as a table, then those of every subject as a chart for each share."""
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
                share_cell(difference.share),
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


def subject_blocks(results: StudyResults, differences: Sequence[Difference], baseline: str) -> list[Block]:
    """Dice of every subject by every method, with the points above the baseline; a table for each share."""
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
