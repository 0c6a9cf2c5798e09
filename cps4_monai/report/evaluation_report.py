"""The report of an evaluation: headline numbers, tables, charts, and a picture of every case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cps4_monai import __version__
from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.evaluation.folder import Evaluation
from cps4_monai.metrics.bootstrap import Interval
from cps4_monai.metrics.conventions import CONVENTION_TITLES, CONVENTIONS
from cps4_monai.metrics.identification import WITHIN_MM
from cps4_monai.metrics.tables import STRUCTURE_METRICS, state_counts
from cps4_monai.palette import hex_colours
from cps4_monai.report.attention_pictures import Attention
from cps4_monai.report.charts import learning_curve, method_bars, structure_boxes
from cps4_monai.report.curves import by_chart
from cps4_monai.report.file_names import common_folder, without_folder
from cps4_monai.report.page import (
    Block,
    Card,
    Cards,
    Cell,
    Figure,
    Gallery,
    Section,
    Table,
    Text,
    count,
    number,
    render_page,
    settings_table,
)
from cps4_monai.report.viewer import View, viewer_blocks, viewer_links

# Settings of a training run (`settings` of train.json) whose names say too little, and those that stand elsewhere.
SETTING_WORDS = {
    "spacing_mm": "pixel size of the network's slices, mm",
    "slice_size": "training slices, pixels (H, W)",
    "features": "channels of the network by depth",
    "labeled_share": "labeled share, %",
    "amp": "mixed precision",
}
SHOWN_ELSEWHERE = ("anatomy", "anatomy_source", "unannotated")
CHART_TITLES = {"losses": "losses", "scores": "validation scores", "seconds": "time", "other": "other values"}


@dataclass
class ReportContent:
    """What goes into the report; whatever is empty is left out of it.

    Attributes:
        evaluation: tables of the predictions.
        anatomy: the classes.
        unannotated: codes that were not scored.
        title: of the page.
        settings: name -> value of the run.
        views: cases for the viewer, the worst first.
        pictures: title -> PNG, each shown in full.
        mosaics: title -> PNG, each behind its title.
        attention: attention maps of the run's stage 1.
        curves: values of the training run (``report.curves.read_metrics``).
        comparison: method -> its scores, e.g. of a trivial baseline, supervised, cps4.
        attribution: where the scans are from and under which licence.
    """

    evaluation: Evaluation
    anatomy: Anatomy = MRSPINESEG
    unannotated: Sequence[int] = ()
    title: str = "Spine segmentation report"
    settings: Mapping[str, Any] = field(default_factory=dict)
    views: Sequence[View] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    mosaics: Mapping[str, bytes] = field(default_factory=dict)
    attention: Attention = field(default_factory=Attention)
    curves: pd.DataFrame | None = None
    comparison: Mapping[str, Evaluation] = field(default_factory=dict)
    attribution: str = ""


def evaluation_page(content: ReportContent) -> str:
    """The report as one HTML page that needs nothing else."""
    evaluation = content.evaluation
    subjects = evaluation.cases["subject"].nunique()
    subtitle = f"{len(evaluation.cases)} scans of {subjects} subjects scored on their own grids"
    if len(evaluation.failures):
        subtitle += f", {len(evaluation.failures)} files not scored"
    sections = [
        Section("Summary", _summary(content), "95 % percentile bootstrap intervals over subjects."),
        Section("Methods side by side", _comparison(content), _comparison_intro(content)),
        Section("By structure", _by_structure(content), _structure_intro(content)),
        Section("By case", _by_case(content)),
        Section("Viewer", viewer_blocks(content.views, content.anatomy), "The lowest Dice (b) comes first."),
        Section(
            "Pictures",
            [Gallery([Figure(p, t) for t, p in content.pictures.items()], wide=True)] if content.pictures else [],
        ),
        Section(
            "All slices",
            [Gallery([Figure(p, t) for t, p in content.mosaics.items()], fold=True)] if content.mosaics else [],
            "Label above, prediction below. Click to open.",
        ),
        Section(
            "Attention maps",
            _attention(content),
            "Attention A to the prompt of a structure (paper, figure 5), from 0 (dark) to 1; its label is outlined. In "
            "the viewer a prompt is chosen from the list.",
        ),
        Section("Learning curves", _curves(content)),
        Section("Not scored", _failures(content), "These files enter no number above."),
        Section("Settings", [settings_table(_settings(content))] if content.settings else []),
        Section("How it is measured", [Text(text) for text in _method(bool(content.anatomy.along_spine()))]),
    ]
    footer = f"Made by cps4_monai {__version__}. Research use only. {content.attribution}".strip()
    return render_page(content.title, subtitle, sections, footer)


def _attention(content: ReportContent) -> list[Block]:
    pictures = [Figure(picture, title) for title, picture in content.attention.pictures.items()]
    viewers = viewer_blocks(content.attention.views, content.anatomy, linked=False)
    return [*viewers, Gallery(pictures, wide=True)] if pictures else [*viewers]


def _interval(row: pd.Series) -> Interval:
    return Interval(float(row["mean"]), float(row["ci_low"]), float(row["ci_high"]), int(row["n"]))


def _range(interval: Interval, digits: int = 3) -> str:
    if np.isnan(interval.low):
        return "no interval: fewer than two subjects"
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def _summary(content: ReportContent) -> list[Block]:
    evaluation = content.evaluation
    cards = []
    for convention in ("b", "a", "c"):
        dice, iou = (_interval(evaluation.overall(f"{name}_{convention}")) for name in ("dice", "iou"))
        cards.append(
            Card(
                f"Dice ({convention})",
                f"{dice.mean:.3f}" if dice.n else "–",
                f"{_range(dice)} · IoU {iou.mean:.3f} · {CONVENTION_TITLES[convention]}",
                strong=convention == "b",
            )
        )
    cases = evaluation.cases
    measured, labeled = int(cases["num_measured"].sum()), int(cases["num_labeled"].sum())
    hd95, assd = _interval(evaluation.overall("hd95_mm")), _interval(evaluation.overall("assd_mm"))
    missed, false = int(cases["num_missed"].sum()), int(cases["num_false"].sum())
    more = [
        Card("HD95", f"{hd95.mean:.2f} mm" if hd95.n else "–", f"{_range(hd95, 2)} · {measured} of {labeled} measured"),
        Card("ASSD", f"{assd.mean:.2f} mm" if assd.n else "–", f"{_range(assd, 2)} · {measured} of {labeled} measured"),
        Card("Missed structures", str(missed), f"of {labeled} in the labels"),
        Card("False structures", str(false), "in no label of that scan"),
    ]
    if not content.anatomy.along_spine():
        return [Cards(cards), Cards(more)]
    right, numbered = int(cases["all_levels_right"].sum()), int(cases["all_levels_right"].count())
    identified = int(cases["num_identified"].sum())
    levels = [
        Card("All levels right", f"{right} of {numbered}", "scans in which each labeled structure got its own level"),
        Card(
            "Identified",
            f"{identified / labeled:.1%}" if labeled else "–",
            f"{identified} of {labeled}: right label, centroid within {WITHIN_MM:g} mm",
        ),
        Card("Off by one level", str(int(cases["num_off_by_one"].sum())), f"of {labeled} labeled structures"),
    ]
    return [Cards(cards), Cards(more), Cards(levels)]


def _comparison(content: ReportContent) -> list[Block]:
    if not content.comparison:
        return []
    metrics = [f"dice_{c}" for c in ("b", "a", "c")] + ["iou_b", "hd95_mm"]
    rows = []
    summaries = {method: evaluation.summary for method, evaluation in content.comparison.items()}
    for method, summary in summaries.items():
        overall = summary[summary["structure"] == "overall"].set_index("metric")
        cells = [Cell(method, method)]
        for metric in metrics:
            if metric not in overall.index:
                cells.append(number(float("nan")))
                continue
            interval = _interval(overall.loc[metric])
            digits = 2 if metric.endswith("_mm") else 3
            low_high = "" if np.isnan(interval.low) else f"  [{_range(interval, digits).replace(' to ', ', ')}]"
            shown = number(interval.mean, digits)
            cells.append(Cell(shown.text + low_high, shown.sort, shown.tone))
        rows.append(cells)
    table = Table(("method", "Dice (b)", "Dice (a)", "Dice (c)", "IoU (b)", "HD95 mm"), rows)
    return [Figure(method_bars(summaries), alt="Dice by method"), table]


def _comparison_intro(content: ReportContent) -> str:
    """Whether all methods were scored on the same scans."""
    here = set(content.evaluation.cases["case"])
    scans = {method: set(evaluation.cases["case"]) for method, evaluation in content.comparison.items()}
    others = [
        f"{method} has {len(own)} scans, {len(own & here)} of these" for method, own in scans.items() if own != here
    ]
    if not others:
        return "Same scans, same convention."
    return f"Not of the same {len(here)} scans, so that they differ by their scans, too: {'; '.join(others)}."


def _structure_intro(content: ReportContent) -> str:
    names = [content.anatomy[code].name for code in content.unannotated]
    skipped = f" Not scored, because never labeled: {', '.join(names)}." if names else ""
    return (
        "Over the subjects whose label shows the structure; n in brackets. A missed structure is a Dice of 0." + skipped
    )


def _by_structure(content: ReportContent) -> list[Block]:
    evaluation, colours = content.evaluation, hex_colours(content.anatomy)
    if evaluation.structures.empty:
        return []
    summary = evaluation.summary.set_index(["structure", "metric"])
    states = state_counts(evaluation.structures)
    rows = []
    for (code, name, kind), counts in states.iterrows():
        cells = [Cell(name, float(code), swatch=colours[code]), Cell(kind, kind)]
        cells += [
            count(counts["ok"] + counts["missed"]),
            count(counts["missed"], bad=True),
            count(counts["false"], bad=True),
        ]
        for metric in STRUCTURE_METRICS:
            if (name, metric) not in summary.index:
                cells.append(number(float("nan")))
                continue
            row = summary.loc[(name, metric)]
            in_mm = metric.endswith("_mm")
            shown = number(float(row["mean"]), 2 if in_mm else 3)
            cells.append(Cell(f"{shown.text}  ({int(row['n'])})" if in_mm else shown.text, shown.sort, shown.tone))
        rows.append(cells)
    columns = ("structure", "kind", "labeled", "missed", "false", "Dice", "IoU", "HD95 mm (n)", "ASSD mm (n)")
    boxes = Figure(structure_boxes(evaluation.structures, content.anatomy), alt="Dice by structure")
    return [boxes, Table(columns, rows)]


def _by_case(content: ReportContent) -> list[Block]:
    columns: tuple[str, ...] = (
        *("case", "subject", "Dice (b)", "Dice (a)", "Dice (c)", "HD95 mm", "ASSD mm", "measured", "missed", "false"),
        *(("identified", "off by one") if content.anatomy.along_spine() else ()),
        *("slices", "warnings"),
    )
    rows = []
    links = viewer_links(content.views)
    for row in content.evaluation.cases.sort_values("dice_b").to_dict("records"):
        cells = [Cell(row["case"], row["case"], link=links.get(row["case"], "")), Cell(row["subject"], row["subject"])]
        cells += [number(row[f"dice_{c}"]) for c in ("b", "a", "c")]
        cells += [number(row["hd95_mm"], 2), number(row["assd_mm"], 2)]
        cells.append(Cell(f"{row['num_measured']} of {row['num_labeled']}", float(row["num_measured"])))
        cells += [count(row["num_missed"], bad=True), count(row["num_false"], bad=True)]
        if content.anatomy.along_spine():
            cells += [count(row["num_identified"]), count(row["num_off_by_one"], bad=True)]
        cells.append(count(row["num_slices"]))
        rows.append([*cells, Cell(row["warnings"], row["warnings"], "warn")])
    if not any(row[-1].text for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return [Table(columns, rows, "Lowest Dice first.", filtered=True)] if rows else []


def _curves(content: ReportContent) -> list[Block]:
    if content.curves is None or content.curves.empty:
        return []
    charts = by_chart(content.curves, content.anatomy.names)
    figures = []
    for (stage, kind), values in charts.items():
        title = f"{stage}: {CHART_TITLES[kind]}" if stage else CHART_TITLES[kind]
        figures.append(Figure(learning_curve(values, title), alt=title))
    return [Gallery(figures)] if figures else []


def _settings(content: ReportContent) -> dict[str, Any]:
    """Settings of the run for a reader: what the page shows elsewhere, or what was not set, is left out."""
    kept = {
        SETTING_WORDS.get(k, k): v for k, v in content.settings.items() if k not in SHOWN_ELSEWHERE and v is not None
    }
    return {"structures": content.anatomy.names[1:], **kept}


def _failures(content: ReportContent) -> list[Block]:
    failures = content.evaluation.failures
    if failures.empty:
        return []
    listed = failures.fillna("").to_dict("records")
    root = common_folder([row["file"] for row in listed if row["file"]])
    rows = [
        [
            Cell(row["case"], row["case"]),
            Cell(without_folder(row["file"], root)),
            Cell(without_folder(row["reason"], root), tone="warn"),
        ]
        for row in listed
    ]
    return [Table(("case", "file", "reason"), rows, words=True)]


def _method(has_levels: bool) -> list[str]:
    lines = [f"Dice ({c}): {CONVENTION_TITLES[c]}." for c in CONVENTIONS]
    lines.append(
        "HD95 and ASSD are measured on the scan's own grid in millimetres, for structures that are in both label and "
        "prediction; a structure that is missed or false has none, so how many were measured stands beside them. The "
        "faces where the slab ends count as surface."
    )
    if has_levels:
        lines.append(
            "The level of a labeled structure is the one that most of its voxels were given among those of its kind "
            "(vertebra or disc); it is off by one where that is a neighbour's."
        )
    lines.append("Intervals draw subjects with replacement (a: with all their slices); the seed is fixed.")
    return lines
