"""Charts of a report as SVG: Dice by structure, learning curves, methods side by side."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cps4_monai.anatomy import Anatomy
from cps4_monai.palette import hex_colours
from cps4_monai.report.overlay import without_formulas

TEXT, MUTED, GRID = "#23272e", "#6b7280", "#e6e8ec"
SERIES = ("#2f6f8f", "#c8693f", "#5b8c5a", "#8a63a8", "#b08a2e", "#3f7fbf", "#a8526b", "#6b7280")
MAX_POINTS = 400
MAX_WITHIN = 4  # names that a legend holds within a chart; more would cover its lines


def plain_chart(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart in the report's style, inches; drawn without pyplot's global state."""
    figure, (axes,) = plain_charts(width, height, 1)
    return figure, axes


def plain_charts(width: float, height: float, count: int) -> tuple[Figure, list[Axes]]:
    """Several beside each other, with one vertical axis."""
    figure = Figure(figsize=(width, height), facecolor="none", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [plain_axes(axes) for axes in figure.subplots(1, count, sharey=True, squeeze=False)[0]]


def plain_axes(axes: Axes) -> Axes:
    """Axes in the report's style."""
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.grid(True, color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    return axes


def svg_of(figure: Figure) -> str:
    """SVG element, ready to stand in HTML; the same input gives the same text."""
    buffer, figure = io.StringIO(), without_formulas(figure)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cps4", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(width|height)="[\d.]+pt"', "", text, count=2)


def on_white(svg: str) -> str:
    """The SVG with paper of its own: a page may be dark, the ink of charts is dark too."""
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="#fff"/>', svg, count=1)


def structure_boxes(structures: pd.DataFrame, anatomy: Anatomy, metric: str = "dice", title: str = "Dice") -> str:
    """Box and points per structure over the cases whose label has it, in the order of the spine, top to bottom.

    Args:
        structures: long form (``metrics.tables.STRUCTURE_COLUMNS``).
        anatomy: order and colours.
        metric: column to show.
        title: of the axis.
    """
    labeled = structures[structures["state"].isin(["ok", "missed"]) & np.isfinite(structures[metric])]
    values = {int(code): group[metric].to_numpy() for code, group in labeled.groupby("code")}
    order = [s for s in reversed(anatomy.along_spine()) if s.code in values]
    order += [s for s in anatomy.foreground if s.order is None and s.code in values]
    colours = hex_colours(anatomy)
    figure, axes = plain_chart(10.4, 0.55 + 0.27 * max(len(order), 1))
    rng = np.random.default_rng(0)
    for place, structure in enumerate(order):
        data = values[structure.code]
        axes.boxplot(
            data,
            positions=[place],
            orientation="horizontal",
            widths=0.55,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colours[structure.code], "edgecolor": "none", "alpha": 0.75},
            medianprops={"color": TEXT, "lw": 1.4},
            whiskerprops={"color": MUTED, "lw": 0.9},
            capprops={"color": "none"},
        )
        jitter = place + rng.uniform(-0.14, 0.14, data.size)
        axes.scatter(data, jitter, s=9, color=TEXT, alpha=0.45, lw=0, zorder=3)
    axes.set_yticks(range(len(order)), [f"{s.name}  ({values[s.code].size})" for s in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(False, axis="y")
    if metric in ("dice", "iou"):
        axes.set_xlim(-0.01, 1.01)
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(title, color=MUTED, fontsize=9)
    return svg_of(figure)


def learning_curve(values: pd.DataFrame, title: str) -> str:
    """One line per name against the iteration; long series are averaged down to ``MAX_POINTS`` points.

    Args:
        values: columns ``iteration``, ``name``, ``value``.
        title: above the chart.
    """
    figure, axes = plain_chart(5.6, 2.9)
    names = sorted(values["name"].unique())
    for place, name in enumerate(names):
        series = values[values["name"] == name].dropna(subset=["value"])
        x, y = series["iteration"].to_numpy(), series["value"].to_numpy()
        if x.size > MAX_POINTS:
            parts = np.array_split(np.arange(x.size), MAX_POINTS)
            x, y = np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])
        axes.plot(
            x,
            y,
            color=SERIES[place % len(SERIES)],
            lw=1.6,
            ls="-" if place < len(SERIES) else "--",
            label=name,
            marker="o" if x.size < 25 else None,
            ms=3,
        )
    axes.set_title(title, color=TEXT, fontsize=10, loc="left")
    axes.set_xlabel("iteration", color=MUTED, fontsize=9)
    if names:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(names) > MAX_WITHIN else {}
        axes.legend(frameon=False, fontsize=8, labelcolor=TEXT, **beside)
    return svg_of(figure)


def method_bars(summaries: Mapping[str, pd.DataFrame], metric: str = "dice_b", title: str = "Dice (b)") -> str:
    """Mean and 95 % interval of each method, in the order given.

    Args:
        summaries: method -> summary table (``metrics.tables.SUMMARY_COLUMNS``).
        metric: which overall metric.
        title: of the axis.
    """
    figure, axes = plain_chart(10.4, 0.6 + 0.36 * max(len(summaries), 1))
    for place, summary in enumerate(summaries.values()):
        row = summary[(summary["structure"] == "overall") & (summary["metric"] == metric)]
        if row.empty or not np.isfinite(row["mean"].iloc[0]):
            continue
        mean, low, high = (float(row[name].iloc[0]) for name in ("mean", "ci_low", "ci_high"))
        axes.barh(place, mean, height=0.56, color=SERIES[0], alpha=0.30, lw=0)
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color=SERIES[0], lw=2.2, solid_capstyle="round")
        axes.plot(mean, place, "o", color=SERIES[0], ms=5)
        edge = high if np.isfinite(high) else mean
        axes.text(edge + 0.012, place, f"{mean:.3f}", color=TEXT, fontsize=8.5, va="center")
    axes.set_yticks(range(len(summaries)), list(summaries))
    axes.set_ylim(len(summaries) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(title, color=MUTED, fontsize=9)
    return svg_of(figure)
