"""Charts of a study as SVG: Dice by labeled share, differences of every subject, learning curves with their range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cps4_monai.bench.comparison import Difference, MethodRow
from cps4_monai.report.charts import MUTED, SERIES, TEXT, plain_chart, plain_charts, svg_of

MARKERS = "osD^vP*X"


def style_of(place: int) -> dict[str, Any]:
    """Colour, line and marker of the n-th method, the same in all charts of a study."""
    turn, colour = divmod(place, len(SERIES))
    return {"color": SERIES[colour], "ls": ("-", "--", ":")[turn % 3], "marker": MARKERS[colour]}


def share_name(share: str) -> str:
    """ "10 %", or "all labels" where the datalist itself says what is labeled."""
    return f"{share} %" if share[:1].isdigit() else "all labels"


def dice_by_share(rows: Sequence[MethodRow], titles: Mapping[str, str]) -> str:
    """Mean Dice (b) of each method with its interval over patients, by labeled share: plain argmax, levels decoded.

    Studies of versions that did not score decoded levels have the first chart alone.

    Args:
        rows: of the study.
        titles: method -> title, all methods of the study in order.
    """
    ways = [False, True] if any(math.isfinite(row.decoded.mean) for row in rows) else [False]
    figure, panels = plain_charts(10.4, 3.9, len(ways))
    for axes, decoded in zip(panels, ways, strict=True):
        shares = draw_by_share(axes, rows, titles, decoded)
        axes.set_xticks(range(len(shares)), [share_name(share) for share in shares])
        axes.set_title("levels decoded" if decoded else "plain argmax", color=TEXT, fontsize=10, loc="left")
        axes.set_xlabel("labeled subjects", color=MUTED, fontsize=9)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("Dice (b)", color=MUTED, fontsize=9)
    panels[-1].legend(frameon=False, fontsize=8.5, labelcolor=TEXT, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg_of(figure)


def draw_by_share(axes: Axes, rows: Sequence[MethodRow], titles: Mapping[str, str], decoded: bool = False) -> list[str]:
    """Means with their intervals, a line for each method, those of one share side by side about its tick.

    Args:
        axes: drawn into.
        rows: of the methods and shares to draw.
        titles: method -> title, in order; others are left out.
        decoded: Dice (b) of the decoded levels, not of the plain argmax.

    Returns:
        The shares, one for each tick from 0 on.
    """
    rows = [row for row in rows if row.method in titles]
    shares = list(dict.fromkeys(row.share for row in rows))
    measured = {(row.method, row.share) for row in rows}
    at_share = {share: [method for method in titles if (method, share) in measured] for share in shares}
    for place, method in enumerate(titles):
        own = [row for row in rows if row.method == method]
        if not own:
            continue
        x = [shares.index(row.share) + _beside(method, at_share[row.share]) for row in own]
        scores = [row.decoded if decoded else row.dice["b"] for row in own]
        style = style_of(place)
        axes.vlines(x, [s.low for s in scores], [s.high for s in scores], color=style["color"], lw=1.6, alpha=0.55)
        axes.plot(x, [s.mean for s in scores], label=titles[method], lw=1.4, ms=5, **style)
    axes.set_xlim(-0.6, len(shares) - 0.4)
    return shares


def _beside(method: str, methods: Sequence[str]) -> float:
    """How far from its share's tick a method is drawn, so that those of one share stand side by side about it."""
    return (methods.index(method) - (len(methods) - 1) / 2) * min(0.09, 0.7 / len(methods))


def subject_differences(differences: Sequence[Difference], titles: Mapping[str, str], baseline: str) -> str:
    """Difference to the baseline in Dice points: a point for each subject, the mean and its interval.

    Args:
        differences: of one share.
        titles: method -> title.
        baseline: short name.
    """
    figure, axes = plain_chart(10.4, 0.9 + 0.36 * max(len(differences), 1))
    methods = list(titles)
    for place, difference in enumerate(differences):
        colour = style_of(methods.index(difference.method))["color"]
        interval = difference.comparison.difference
        above = np.full(difference.by_subject.size, place - 0.2)  # the interval's line would hide them
        axes.scatter(100 * difference.by_subject, above, s=16, color=colour, alpha=0.7, lw=0)
        if np.isfinite(interval.low):
            ends = [100 * interval.low, 100 * interval.high]
            axes.plot(ends, [place, place], color=colour, lw=2.4, solid_capstyle="round")
        axes.plot(100 * interval.mean, place, "|", color=TEXT, ms=12, mew=2)
    axes.axvline(0, color=MUTED, lw=1)
    axes.set_yticks(range(len(differences)), [titles[difference.method] for difference in differences])
    axes.set_ylim(len(differences) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel(f"Dice (b) points above {titles[baseline]}", color=MUTED, fontsize=9)
    return svg_of(figure)


def validation_curves(curves: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Validation Dice against the iteration: the mean over seeds, and their range as a band.

    Args:
        curves: of one share: ``method``, ``seed``, ``iteration``, ``value``.
        titles: method -> title.
    """
    figure, axes = plain_chart(10.4, 3.6)
    for place, method in enumerate(titles):
        own = curves[curves["method"] == method]
        if own.empty:
            continue
        spread = own.groupby("iteration")["value"].agg(["mean", "min", "max"])
        style = style_of(place)
        axes.fill_between(spread.index, spread["min"], spread["max"], color=style["color"], alpha=0.12, lw=0)
        axes.plot(spread.index, spread["mean"], label=titles[method], lw=1.6, ms=4, **style)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("iteration", color=MUTED, fontsize=9)
    axes.set_ylabel("validation Dice (b)", color=MUTED, fontsize=9)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=TEXT, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg_of(figure)
