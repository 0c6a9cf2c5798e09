"""The tables and the figure of docs/results/table1.md, from the runs of studies/table1.yaml; nothing is trained.

    python benchmarks/table1.py RUNS
    python benchmarks/table1.py RUNS --section validation --scores-only --page docs/results/table1_validation.md
    python benchmarks/table1.py RUNS --peer "nnU-Net v2, 2-D" 5 OUT/nnunet/lumbar_t1_5   # of benchmarks/gpu.sh

Rows stand side by side only on the same seeds, that is on the same labeled patients: a share has a table of the seeds
that all of its methods have, and one of the methods that have more. Everything between the two marks of the page is
written anew, what stands around them stays; so is the figure beside it. The paper's figures are those of its Table 1,
single runs in percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isnan
from pathlib import Path

import pandas as pd

from cps4_monai.bench.charts import share_name
from cps4_monai.bench.comparison import Difference, MethodRow, comparable, differences_to, mean_ranks, method_rows
from cps4_monai.bench.folders import DONE, read_json_or_empty
from cps4_monai.bench.prompt_map_section import users_of_stage1
from cps4_monai.bench.results import LOCALISATION, CellResult, StudyResults, find_studies, load_results
from cps4_monai.bench.table_cells import with_interval
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.evaluation.folder import Evaluation
from cps4_monai.method_list import list_methods

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "table1.md"
MARKS = ("<!-- tables: benchmarks/table1.py -->", "<!-- end of tables -->")
# Share -> method -> mean Dice and IoU in percent; DuSSS has 25 and 50 % only.
PAPER = {
    "5": {
        "mean_teacher": (74.25, 64.14),
        "bcp": (49.86, 37.09),
        "mc_net": (70.57, 59.89),
        "ss_net": (71.89, 61.26),
        "ucmt": (74.51, 63.22),
        "clip": (76.17, 66.12),
        "medclip": (76.47, 66.84),
        "mgca": (77.52, 67.39),
        "egma_mask_gaze": (77.69, 68.21),
        "graphcl": (78.21, 67.89),
        "cps4_paper": (80.44, 70.63),
    },
    "10": {
        "mean_teacher": (75.54, 64.22),
        "bcp": (66.24, 53.81),
        "mc_net": (71.30, 59.54),
        "ss_net": (70.01, 58.65),
        "ucmt": (74.88, 63.17),
        "clip": (76.15, 66.08),
        "medclip": (76.72, 67.05),
        "mgca": (77.86, 67.47),
        "egma_mask_gaze": (78.54, 67.82),
        "graphcl": (78.64, 68.10),
        "cps4_paper": (81.67, 70.43),
    },
}


@dataclass(frozen=True)
class Line:
    """A method at a share: its scores, its difference to the baseline, its ranks, and the paper's own scores."""

    row: MethodRow
    difference: Difference | None
    rank: float | None
    decoded_rank: float | None
    paper: tuple[float, float] | None


def lines_of(results: StudyResults, share: str) -> list[Line]:
    """Methods of a share in the study's order, as far as they are done."""
    against = {one.method: one for one in differences_to(results, results.manifest["baseline"])}
    ranks = [mean_ranks(results, share, column) for column in ("dice_b", "decoded_b")]
    paper = PAPER.get(share, {})
    return [
        Line(row, against.get(row.method), *(rank.get(row.method) for rank in ranks), paper.get(row.method))
        for row in method_rows(results)
    ]


def with_peers(results: StudyResults, peers: Sequence[tuple[str, str, Path]]) -> StudyResults:
    """The study's scores beside those of systems that have a trainer of their own; of them there is nothing else.

    Args:
        results: of the study.
        peers: title, labeled share, and the folder whose ``SECTION/report_argmax`` and ``SECTION/report_decoded`` are
            reports of `cps4 report` on the study's patients; trained on those that seed 0 labels.

    Raises:
        ValueError: a report is not there.
    """
    cells, entries = [], []
    for title, share, folder in peers:
        reports = [Evaluation.load(folder / results.section / f"report_{way}") for way in ("argmax", "decoded")]
        identity = {"name": title, "method": title, "share": share, "seed": 0, "folder": folder, "stage1": None}
        scores = {"evaluation": reports[0], "decoded": reports[1]}
        unknown = {"done": {"seconds": {"training": float("nan")}}, "run": {}, "task": {}}
        cells.append(CellResult(**identity, **scores, **unknown))
        entries.append({"method": title, "title": title})
    manifest = {**results.manifest, "cells": [*results.manifest["cells"], *entries]}
    return replace(results, manifest=manifest, cells=(*results.cells, *cells))


def score_tables(results: StudyResults, by_share: Mapping[str, Sequence[Sequence[Line]]]) -> Iterator[str]:
    """Lines of Markdown: the tables of scores for each share."""
    for share, parts in by_share.items():
        yield from (f"### {share_name(share)} labeled", "")
        yield (
            "Dice (b); points are those over Mean Teacher, bold where the interval leaves out 0; rank: mean over the "
            "patients, 1 is the best; IoU: (b), of the argmax."
        )
        for lines in parts:
            numbers = lines[0].row.seeds
            seeds = f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
            yield from ("", f"**{lines[0].row.dice['b'].n} {results.section} patients, {seeds}**", "")
            yield "| method | paper: Dice, IoU in % | argmax | points | rank | decoded | points | rank | IoU |"
            yield "|---|---|---|---|---|---|---|---|---|"
            weak = [line for line in lines if line.row.method in weakly_sourced()]
            yield from (score_row(results.methods[line.row.method] + "*" * (line in weak), line) for line in lines)
            if weak:
                yield from (
                    "",
                    "\\* weakly sourced: what is known is an outline, second-hand, or at odds with its code.",
                )
        yield ""


@cache
def weakly_sourced() -> set[str]:
    """The methods whose own source says that parts of it could not be read."""
    return {entry.name for entry in list_methods(find_bundle_root()) if "weakly sourced" in entry.source}


def score_row(title: str, line: Line) -> str:
    """A method's row in the table of a share."""
    row = line.row
    cells = [
        title,
        "" if line.paper is None else "{:.1f}, {:.1f}".format(*line.paper),
        with_interval(row.dice["b"]),
        points(line.difference, decoded=False),
        "" if line.rank is None else f"{line.rank:.1f}",
        with_interval(row.decoded),
        points(line.difference, decoded=True),
        "" if line.decoded_rank is None else f"{line.decoded_rank:.1f}",
        f"{row.iou.mean:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def points(difference: Difference | None, decoded: bool) -> str:
    """ "+4.0 [+1.4, +6.8]", bold where the interval leaves out 0."""
    comparison = None if difference is None else difference.decoded if decoded else difference.comparison
    if comparison is None:
        return ""
    text = with_interval(comparison.difference, 1, 100, sign=True)
    sure = comparison.difference.low > 0 or comparison.difference.high < 0
    return f"**{text}**" if sure else text


def stage1_table(results: StudyResults) -> Iterator[str]:
    """Prompt maps and where they lie, one row for each stage 1 and share."""
    means = results.prompt_maps[results.prompt_maps["subject"] == "mean"]
    if means.empty:
        return
    yield from (
        "### Stage 1",
        "",
        "Dice (b) of the prompt map on the network's slices, beside the ceiling of its grid; of an assistant, which "
        "has neither, of its label maps, and on validation alone. Pointing game, patch AUC and right levels are those "
        "of validation.",
    )
    yield from (
        "",
        "| stage 1 of | labeled | prompt map | ceiling | pointing game | patch AUC | right levels | seeds | minutes |",
    )
    yield "|---" * 9 + "|"
    for share in results.shares:
        for folders, methods in users_of_stage1(results, means, share).items():
            own = means[means["folder"].isin(folders) & (means["convention"] == "b")].drop_duplicates(["folder", "map"])
            dice = own.groupby("map")["dice"].mean()
            where = results.localisation.drop_duplicates("folder").set_index("folder").reindex(folders)
            cells = [", ".join(results.methods[method] for method in methods), share_name(share)]
            scores = [
                dice["prompt_map"],
                dice.get("ceiling", float("nan")),
                *(where[name].mean() for name in LOCALISATION),
            ]
            cells += ["" if isnan(score) else f"{score:.3f}" for score in scores]
            minutes = [stage1_minutes(results, folder) for folder in folders]
            cells += [str(len(folders)), f"{sum(minutes) / len(minutes):.0f}"]
            yield f"| {' | '.join(cells)} |"
    yield ""
    yield from pointing_table(results, means)


def pointing_table(results: StudyResults, means: pd.DataFrame) -> Iterator[str]:
    """The pointing game, structure by structure."""
    scores = results.pointing_game
    if scores.empty:
        return
    names = list(scores)
    yield from ("Pointing game, structure by structure: share of slices in which the map is largest on it.", "")
    yield f"| stage 1 of | labeled | {' | '.join(names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for share in results.shares:
        for folders, methods in users_of_stage1(results, means, share).items():
            own = scores.reindex(list(folders))[names].mean()
            cells = [", ".join(results.methods[method] for method in methods), share_name(share)]
            yield f"| {' | '.join(cells + [f'{value:.2f}' for value in own])} |"
    yield ""


def stage1_minutes(results: StudyResults, folder: str) -> float:
    """Minutes that a stage 1 trained; NaN where they are not there, as of a stage 1 that is being trained again."""
    done = read_json_or_empty(results.runs / "stage1" / folder / DONE)
    return float(done.get("seconds", {}).get("training", "nan")) / 60


def cost_table(results: StudyResults) -> Iterator[str]:
    """What a step of stage 2 costs, a row for each method: with 5 % labeled; other shares ran on other machines."""
    yield from (
        "### Cost of stage 2",
        "",
        "With 5 % labeled.",
        "",
        "| method | seconds an iteration | minutes a training | per batch |",
        "|---|---|---|---|",
    )
    for method, title in results.methods.items():
        own = results.costs[(results.costs["method"] == method) & (results.costs["share"] == "5")]
        if own.empty:
            continue
        cells = [cell for cell in results.cells if (cell.method, cell.share) == (method, "5")]
        minutes = [cell.done["seconds"]["training"] / 60 for cell in cells]
        note = own["notes"].iloc[-1] or ""  # of the last seed: the wording of some has changed
        yield f"| {title} | {own['seconds'].mean():.2f} | {sum(minutes) / len(minutes):.1f} | {note} |"
    yield ""


def draw(titles: Mapping[str, str], share: str, lines: Sequence[Line]) -> str:
    """The SVG: methods from the best argmax down, both scores with intervals, the paper's figure hollow."""
    from cps4_monai.bench.charts import style_of
    from cps4_monai.report.charts import MUTED, TEXT, on_white, plain_chart, svg_of

    lines = sorted(lines, key=lambda line: -line.row.dice["b"].mean)
    figure, axes = plain_chart(9.6, 1.3 + 0.3 * len(lines))
    hollow = {"marker": "D", "ls": "", "mfc": "none", "mec": MUTED, "ms": 6}
    for place, line in enumerate(lines):
        for series, interval in enumerate((line.row.dice["b"], line.row.decoded)):
            style, y = style_of(series) | {"ls": ""}, place + (-0.14, 0.14)[series]
            axes.plot([interval.low, interval.high], [y, y], color=style["color"], lw=2, alpha=0.55)
            axes.plot(interval.mean, y, ms=6, **style)
        if line.paper is not None:
            axes.plot(line.paper[0] / 100, place, **hollow)
    keys = (("plain argmax", style_of(0)), ("levels decoded", style_of(1)), ("the paper's own, on its data", hollow))
    for label, style in keys:
        axes.plot([], [], label=label, **{**style, "ls": ""})
    axes.set_yticks(range(len(lines)), [titles[line.row.method] for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel(f"Dice, {share_name(share)} labeled", color=MUTED, fontsize=9)
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": len(keys)}
    axes.legend(frameon=False, fontsize=8.5, labelcolor=TEXT, **above)
    return on_white(svg_of(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--study", default="table1", help="whose runs these are")
    parser.add_argument("--section", default="test", choices=("validation", "test"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--scores-only", action="store_true", help="no tables of stage 1 and of costs, no figure")
    parser.add_argument("--share", default="5", help="of the figure")
    what = ("TITLE", "SHARE", "FOLDER")
    parser.add_argument("--peer", nargs=3, action="append", default=[], metavar=what, help="a row from its reports")
    arguments = parser.parse_args()
    results = load_results(find_studies(arguments.runs, [arguments.study])[0], arguments.runs, arguments.section)
    if not arguments.scores_only and arguments.share not in results.shares:
        parser.error(f"--share is {arguments.share}; expected one of {results.shares}, or --scores-only")
    peers = [(title, share, Path(folder)) for title, share, folder in arguments.peer]
    text = arguments.page.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    scored = with_peers(results, peers)
    lines = {share: [lines_of(part, share) for part in comparable(scored, share)] for share in scored.shares}
    made = list(score_tables(scored, lines))
    if not arguments.scores_only:
        made += [*stage1_table(results), *cost_table(results)]
    content = "\n".join(made)
    arguments.page.write_text(f"{before}{MARKS[0]}\n\n{content}\n{MARKS[1]}{after}", encoding="utf-8")
    if arguments.scores_only:
        return
    own = lines_of(comparable(results, arguments.share)[0], arguments.share)
    arguments.page.with_suffix(".svg").write_text(draw(results.methods, arguments.share, own), encoding="utf-8")


if __name__ == "__main__":
    main()
