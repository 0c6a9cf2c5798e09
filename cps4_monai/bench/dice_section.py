"""The section of a study that compares the methods' scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cps4_monai.bench.charts import dice_by_share, share_name
from cps4_monai.bench.comparison import MethodRow, gap_closed, mean_ranks, method_rows
from cps4_monai.bench.results import StudyResults
from cps4_monai.bench.table_cells import share_cell, with_interval
from cps4_monai.report.page import Block, Cell, Figure, Table, Text, number


def dice_blocks(
    results: StudyResults, rows: Sequence[MethodRow], best: Mapping[str, str], chosen_on: StudyResults | None
) -> list[Block]:
    """Scores of every method and share, the chart over shares, and which method is best.

    Args:
        results: of the study.
        rows: of :func:`cps4_monai.bench.comparison.method_rows`.
        best: share -> method.
        chosen_on: results that the best were chosen by; None: these.
    """
    closed = gap_closed(results, results.manifest["gap"]) if results.manifest["gap"] else {}
    ranks, decoded_ranks = (
        {share: mean_ranks(results, share, column) for share in results.shares} for column in ("dice_b", "decoded_b")
    )
    columns = ["method", "labeled", "seeds", "Dice (b) [95 %]", "rank", "IoU (b)", "decoded (b) [95 %]", "rank decoded"]
    columns += ["levels right", "SD over seeds", "Dice (a)", "Dice (c)", "missed", "identified", "minutes"]
    columns += ["gap closed"] if closed else []
    table = []
    for row in rows:
        tone = "best" if best.get(row.share) == row.method else ""
        title = results.methods[row.method]
        cells = [
            Cell(title, title, tone),
            share_cell(row.share),
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
