"""The section of a study that compares the methods' scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cps4_monai.bench.charts import dice_by_share, share_name
from cps4_monai.bench.comparison import MethodRow, comparable, gap_closed, mean_ranks, method_rows, on_common_seeds
from cps4_monai.bench.results import StudyResults
from cps4_monai.bench.table_cells import share_cell, with_interval
from cps4_monai.report.page import Block, Cell, Figure, Table, Text, number


def dice_blocks(results: StudyResults, best: Mapping[str, str], chosen_on: StudyResults | None) -> list[Block]:
    """Scores of every method and share, the chart over shares, and which method is best.

    Rows of a share stand together by their seeds: first those of the seeds that all of its methods have, which are in
    the chart and of which one is best, then those of more seeds; ranks are among the rows that stand together.

    Args:
        results: of the study.
        best: share -> method, on common seeds.
        chosen_on: results that the best were chosen by; None: these.
    """
    closed = gap_closed(results, results.manifest["gap"]) if results.manifest["gap"] else {}
    columns = ["method", "labeled", "seeds", "Dice (b) [95 %]", "rank", "IoU (b)", "decoded (b) [95 %]", "rank decoded"]
    columns += ["levels right", "SD over seeds", "Dice (a)", "Dice (c)", "missed", "identified", "minutes"]
    columns += ["gap closed"] if closed else []
    table: list[list[Cell]] = []
    apart: list[str] = []
    alone: list[str] = []
    beside: list[str] = []
    for share in results.shares:
        parts = comparable(results, share)
        apart += [share_name(share)] if len(parts) > 1 else []
        alone += [] if parts else [share_name(share)]
        own = replace(results, cells=tuple(cell for cell in results.cells if cell.share == share))
        standing = parts or [own]
        shown = {cell.name for part in standing for cell in part.cells}
        beside += [cell.name for cell in own.cells if cell.name not in shown]
        for place, part in enumerate(standing):
            table += _rows(part, share, best.get(share) if parts and not place else None, closed)
    common = method_rows(on_common_seeds(results))
    blocks: list[Block] = [Table(columns, table), *_seed_texts(apart, alone, beside)]
    if len({row.share for row in common}) > 1:
        chart = dice_by_share(common, results.methods)
        blocks.insert(0, Figure(chart, f"{results.manifest['study']}: Dice by labeled share", alt="Dice by share"))
    return [*blocks, *_best_texts(results, common, best, chosen_on), *_gap_text(results, closed)]


def _rows(
    part: StudyResults, share: str, best: str | None, closed: Mapping[tuple[str, str], float]
) -> Iterator[list[Cell]]:
    """A row for each method of cells that stand together."""
    ranks, decoded_ranks = (mean_ranks(part, share, column) for column in ("dice_b", "decoded_b"))
    for row in method_rows(part):
        tone = "best" if best == row.method else ""
        title = part.methods[row.method]
        cells = [
            Cell(title, title, tone),
            share_cell(row.share),
            Cell(", ".join(map(str, row.seeds)), len(row.seeds)),
            Cell(with_interval(row.dice["b"]), row.dice["b"].mean, tone),
            _rank(ranks.get(row.method)),
            number(row.iou.mean),
            Cell(with_interval(row.decoded), row.decoded.mean),
            _rank(decoded_ranks.get(row.method)),
            Cell("–" if math.isnan(row.decoded_right) else f"{row.decoded_right:.0%}", row.decoded_right),
            number(row.seed_sd["b"]),
            Cell(with_interval(row.dice["a"]), row.dice["a"].mean),
            Cell(with_interval(row.dice["c"]), row.dice["c"].mean),
            Cell(f"{row.missed:.1f} of {row.labeled}", row.missed),
            Cell(f"{row.identified:.1%}", row.identified),
            number(row.seconds / 60, 1),
        ]
        if closed:
            reached = closed.get((row.method, row.share), float("nan"))
            cells.append(Cell("–", -math.inf, "muted") if math.isnan(reached) else Cell(f"{reached:.0%}", reached))
        yield cells


def _seed_texts(apart: Sequence[str], alone: Sequence[str], beside: Sequence[str]) -> list[Block]:
    """What to know of rows of different seeds.

    Args:
        apart: shares where some methods have more seeds than the others.
        alone: shares where the methods have no seed in common.
        beside: cells that stand in no row, since the methods beside them lack their seed.
    """
    blocks: list[Block] = []
    if apart:
        text = (
            "some methods have more seeds than others. Compare rows of the same seeds only; the chart and the best are"
        )
        blocks.append(Text(f"{', '.join(apart)} labeled: {text} of the seeds that all methods of a share have."))
    if alone:
        text = "no seed is there of all methods, and their rows are not to be compared"
        blocks.append(Text(f"{', '.join(alone)} labeled: {text}.", "warn"))
    if beside:
        blocks.append(Text(f"In no row, since other methods lack their seeds: {', '.join(beside)}.", "warn"))
    return blocks


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
    there = {(row.share, row.method): row.dice["b"].mean for row in method_rows(on_common_seeds(chosen_on))}
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
