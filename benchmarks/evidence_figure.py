"""The figure of docs/results/evidence.md, Dice by labeled patients; nothing is trained or scored.

    python benchmarks/evidence_figure.py                                                    # of the committed tables
    python benchmarks/evidence_figure.py --runs RUNS --study lumbar_t1 --section test       # of a study's runs

Left: the plain argmax with its interval over subjects (docs/results/studies.md, study `ratios_longer`). Right: levels
decoded (the table of docs/results/evidence.md, which has means only). Methods and their titles are those of the study.
Of runs, both sides have intervals.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
STUDY = "ratios_longer"
SHOWN = {
    "supervised": "supervised",
    "mean_teacher": "Mean Teacher",
    "cps4": "CPS4",
    "mt_decoded": "decoded pseudo-labels",
    "cps4_plus": "the same with class prompts (CPS4+)",
}


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its two head lines; bold marks are taken off."""
    part = text.split(f"\n## {heading}\n", 1)
    if len(part) != 2:
        raise SystemExit(f"no heading '## {heading}'")
    lines = re.search(r"(?:^\|.*\n)+", part[1], re.MULTILINE)
    if lines is None:
        raise SystemExit(f"no table below '## {heading}'")
    rows = [[cell.strip().replace("*", "") for cell in line.strip("|").split("|")] for line in lines[0].splitlines()]
    return rows[2:]


def argmax_values() -> pd.DataFrame:
    """method, share (%), mean, low, high of Dice (b) on the test subjects."""
    methods = yaml.safe_load((ROOT / "studies" / f"{STUDY}.yaml").read_text(encoding="utf-8"))["methods"]
    by_title = {spec["title"]: name for name, spec in methods.items()}
    rows = []
    for cells in table_rows((RESULTS / "studies.md").read_text(encoding="utf-8"), f"{STUDY}: Dice"):
        mean, low, high = map(float, re.findall(r"\d\.\d+", cells[3]))
        rows.append({"method": by_title[cells[0]], "share": cells[1], "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def decoded_values() -> pd.DataFrame:
    """method, share (%) and mean of Dice (b) on the test subjects, levels decoded."""
    rows = []
    for cells in table_rows((RESULTS / "evidence.md").read_text(encoding="utf-8"), "When every output is decoded"):
        found = re.fullmatch(r"(\d+ %) `(\w+)`", cells[0])
        if found is None:
            raise SystemExit(f"evidence.md: {cells[0]!r} in the decoded table; expected e.g. 5 % `cps4`")
        rows.append({"method": found[2], "share": found[1], "mean": float(cells[2])})
    return pd.DataFrame(rows)


def values_of_runs(runs: Path, study: str, section: str) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int], int]:
    """Argmax and decoded values as above, the second with intervals, labeled patients by share, and patients scored."""
    from cps4_monai.bench.charts import share_name
    from cps4_monai.bench.comparison import method_rows
    from cps4_monai.bench.results import find_studies, load_results

    results = load_results(find_studies(runs, [study])[0], runs, section)
    rows = [row for row in method_rows(results) if row.method in SHOWN]
    tables = [
        pd.DataFrame(
            {"method": row.method, "share": share_name(row.share), "mean": one.mean, "low": one.low, "high": one.high}
            for row, one in zip(rows, intervals, strict=True)
        )
        for intervals in ([row.dice["b"] for row in rows], [row.decoded for row in rows])
    ]
    cells = [cell for cell in results.manifest["cells"] if cell["labeled_subjects"]]
    labeled = {share_name(cell["share"]): len(cell["labeled_subjects"]) for cell in cells}
    return tables[0], tables[1], labeled, rows[0].dice["b"].n


def percent(share: str) -> float:
    """ "5 %" to 5."""
    return float(share.split()[0])


def draw(argmax: pd.DataFrame, decoded: pd.DataFrame, subjects: dict[str, int], scored: str) -> str:
    """The SVG; it brings its own white paper, so that it can be read on a dark page too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from cps4_monai.bench.charts import style_of
    from cps4_monai.report.charts import GRID, MUTED, TEXT, on_white, svg_of

    shares = sorted(dict.fromkeys(argmax["share"]), key=percent)
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    told = "95 % interval over subjects" if "low" in decoded else "means only"
    titles = ("plain argmax, 95 % interval over subjects", f"levels decoded, as cps4 segment does ({told})")
    for axes, values, title in zip(panels, (argmax, decoded), titles, strict=True):
        for place, (method, label) in enumerate(SHOWN.items()):
            own = values[values["method"] == method].sort_values("share", key=lambda of: of.map(percent))
            x = [shares.index(share) + (place - 2) * 0.1 for share in own["share"]]
            style = style_of(place)
            if "low" in own:
                axes.vlines(x, own["low"], own["high"], color=style["color"], lw=1.8, alpha=0.5)
            axes.plot(x, own["mean"], label=label, lw=1.4, ms=6, **style)
        axes.set_xticks(
            range(len(shares)), [f"{subjects[share]} ({share})" if share in subjects else share for share in shares]
        )
        axes.set_xlim(-0.5, len(shares) - 0.5)
        axes.set_ylim(*(0, 0.85) if "low" not in decoded else (max(0, argmax["low"].min() - 0.1), 1))
        axes.set_title(title, color=TEXT, fontsize=10, loc="left")
        axes.set_xlabel("labeled subjects", color=MUTED, fontsize=9)
        axes.tick_params(colors=MUTED, labelsize=9, length=0)
        axes.grid(True, color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
    panels[0].set_ylabel(f"Dice (b), {scored}", color=MUTED, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9, labelcolor=TEXT)
    return on_white(svg_of(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "evidence.svg")
    parser.add_argument("--runs", type=Path, help="folder of a study's runs; default: the committed tables")
    parser.add_argument("--study", default="lumbar_t1", help="of the runs")
    parser.add_argument("--section", default="test", choices=("validation", "test"))
    arguments = parser.parse_args()
    if arguments.runs is not None:
        argmax, decoded, labeled, count = values_of_runs(arguments.runs, arguments.study, arguments.section)
        picture = draw(argmax, decoded, labeled, f"{count} {arguments.section} patients")
        arguments.output.write_text(picture, encoding="utf-8")
        return
    heads = re.findall(r"(\d+ %) \((\d+)(?: subjects?)?\)", (RESULTS / "evidence.md").read_text(encoding="utf-8"))
    picture = draw(
        argmax_values(), decoded_values(), {share: int(count) for share, count in heads}, "seven test subjects"
    )
    arguments.output.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
