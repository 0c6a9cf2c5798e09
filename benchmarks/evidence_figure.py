"""The figure of docs/results/evidence.md, drawn from the tables that are committed; nothing is trained or scored.

    python benchmarks/evidence_figure.py

Left: the plain argmax with its interval over subjects (docs/results/studies.md, study `ratios_longer`). Right: levels
decoded (the table of docs/results/evidence.md, which has means only). Methods and their titles are those of the study.
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


def draw(argmax: pd.DataFrame, decoded: pd.DataFrame, subjects: dict[str, int]) -> str:
    """The SVG; it brings its own white paper, so that it can be read on a dark page too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from cps4_monai.bench.charts import style_of
    from cps4_monai.report.charts import GRID, MUTED, TEXT, on_white, svg_of

    shares = list(dict.fromkeys(argmax["share"]))
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("plain argmax, 95 % interval over subjects", "levels decoded, as cps4 segment does (means only)")
    for axes, values, title in zip(panels, (argmax, decoded), titles, strict=True):
        for place, (method, label) in enumerate(SHOWN.items()):
            own = values[values["method"] == method]
            x = [shares.index(share) + (place - 2) * 0.1 for share in own["share"]]
            style = style_of(place)
            if "low" in own:
                axes.vlines(x, own["low"], own["high"], color=style["color"], lw=1.8, alpha=0.5)
            axes.plot(x, own["mean"], label=label, lw=1.4, ms=6, **style)
        axes.set_xticks(range(len(shares)), [f"{subjects[share]} ({share})" for share in shares])
        axes.set_xlim(-0.5, len(shares) - 0.5)
        axes.set_ylim(0, 0.85)
        axes.set_title(title, color=TEXT, fontsize=10, loc="left")
        axes.set_xlabel("labeled subjects", color=MUTED, fontsize=9)
        axes.tick_params(colors=MUTED, labelsize=9, length=0)
        axes.grid(True, color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
    panels[0].set_ylabel("Dice (b), seven test subjects", color=MUTED, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9, labelcolor=TEXT)
    return on_white(svg_of(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "evidence.svg")
    arguments = parser.parse_args()
    heads = re.findall(r"(\d+ %) \((\d+)(?: subjects?)?\)", (RESULTS / "evidence.md").read_text(encoding="utf-8"))
    picture = draw(argmax_values(), decoded_values(), {share: int(count) for share, count in heads})
    arguments.output.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
