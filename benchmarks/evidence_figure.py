"""The figure of docs/results/evidence.md, from the runs of studies/lumbar_t1.yaml; nothing is trained or scored.

    python benchmarks/evidence_figure.py RUNS --section test

Left: the plain argmax; right: levels decoded, as `cps4 segment` does. Methods over the number of labeled patients,
seeds averaged, with 95 % intervals over patients; the dashed line with its band is `supervised` with all labels.
The seeds at each number of patients, which the axis names, are those that all of these methods have.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cps4_monai.bench.charts import draw_by_share, share_name
from cps4_monai.bench.comparison import FULL, method_rows, on_common_seeds
from cps4_monai.bench.results import StudyResults, find_studies, load_results
from cps4_monai.report.charts import MUTED, TEXT, on_white, plain_charts, svg_of

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "results" / "evidence.svg"
UPPER_BOUND = "supervised"
SHOWN = {
    "supervised": "supervised",
    "mean_teacher": "Mean Teacher",
    "cps4": "CPS4: class prompts",
    "cps4_paper": "CPS4 as published",
    "mt_decoded": "decoded pseudo-labels",
    "cps4_plus": "CPS4+: both",
}


def labeled_patients(results: StudyResults, share: str) -> int:
    """Training patients with labels at a share."""
    return len(next(cell for cell in results.cells if cell.share == share).run["settings"]["labeled_subjects"])


def shown_cells(results: StudyResults) -> StudyResults:
    """Cells of the methods in the figure, on the seeds that all of them have at a share."""
    return on_common_seeds(replace(results, cells=tuple(cell for cell in results.cells if cell.method in SHOWN)))


def draw(results: StudyResults) -> str:
    """The SVG; it brings its own white paper, so that it can be read on a dark page too."""
    rows = method_rows(shown_cells(results))
    few = [row for row in rows if row.share != FULL]
    whole = next((row for row in rows if (row.method, row.share) == (UPPER_BOUND, FULL)), None)
    figure, panels = plain_charts(10.4, 4.2, 2)
    for axes, decoded, title in zip(panels, (False, True), ("plain argmax", "levels decoded"), strict=True):
        axes.grid(False, axis="x")
        if whole is not None:
            bound = whole.decoded if decoded else whole.dice["b"]
            axes.axhspan(bound.low, bound.high, color=MUTED, alpha=0.12, lw=0)
            axes.axhline(bound.mean, color=MUTED, lw=1.2, ls="--", label="supervised, all patients labeled")
        shares = draw_by_share(axes, few, SHOWN, decoded)
        seeds = {row.share: ", ".join(map(str, row.seeds)) for row in few}
        ticks = [f"{labeled_patients(results, s)} ({share_name(s)})\nseeds {seeds[s]}" for s in shares]
        axes.set_xticks(range(len(shares)), ticks)
        axes.set_title(title, color=TEXT, fontsize=10, loc="left")
        axes.set_xlabel("labeled patients", color=MUTED, fontsize=9)
    scored = results.cases["subject"].nunique()
    panels[0].set_ylabel(f"Dice (b), {scored} {results.section} patients", color=MUTED, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=TEXT)
    return on_white(svg_of(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--section", default="test", choices=("validation", "test"))
    parser.add_argument("--study", default="lumbar_t1", help="or table1, whose runs have these methods, too")
    parser.add_argument("-o", "--output", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    results = load_results(find_studies(arguments.runs, [arguments.study])[0], arguments.runs, arguments.section)
    arguments.output.write_text(draw(results), encoding="utf-8")


if __name__ == "__main__":
    main()
