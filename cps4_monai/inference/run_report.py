"""The page of a run: what to look at first, every scan in one sortable table, and the pictures."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from cps4_monai import __version__
from cps4_monai.anatomy import Anatomy
from cps4_monai.encoding import text_bytes
from cps4_monai.inference.outcome import ScanOutcome, by_urgency
from cps4_monai.inference.run_tables import levels_in_view
from cps4_monai.levels.flags import FLAGS, names_are_trusted
from cps4_monai.palette import hex_colours
from cps4_monai.report.file_names import common_folder, without_folder
from cps4_monai.report.page import (
    Card,
    Cards,
    Cell,
    Figure,
    Gallery,
    Section,
    Table,
    Text,
    number,
    render_page,
    settings_table,
)
from cps4_monai.report.viewer import View, viewer_blocks, viewer_links

logger = logging.getLogger(__name__)

MAX_PICTURES = 40
VIEWER_INTRO = (
    "What needs a look comes first. A level that is wrong: click a structure, say what it is, and the others follow. "
    "The command cps4 relabel applies the downloaded file."
)
SUBTITLE = "Research software, not a medical device: check the numbering of the levels before any use."


def run_report(
    outcomes: Sequence[ScanOutcome],
    anatomy: Anatomy,
    *,
    title: str = "Spine segmentation",
    settings: Mapping[str, Any] | None = None,
    views: Sequence[View] = (),
    pages: Mapping[str, str] | None = None,
) -> bytes:
    """The page as bytes.

    Args:
        outcomes: of all inputs.
        anatomy: the classes.
        title: of the page.
        settings: of the run, shown as a table.
        views: scans that the page itself shows, in the order of its table.
        pages: addresses of the pages that show them instead, by name.
    """
    links = viewer_links(views) if pages is None else pages
    roots = [common_folder(files) for files in ([o.source for o in outcomes], [o.label for o in outcomes if o.label])]
    listed = by_urgency([outcome for outcome in outcomes if outcome.status != "skipped"])
    skipped = [outcome for outcome in outcomes if outcome.status == "skipped"]
    sections = [
        Section("Overview", [_cards(listed, skipped)]),
        Section(
            "Scans",
            [_scan_table(listed, anatomy, roots, links)] if listed else [],
            "What needs a look comes first: alarms question the result, notes are true of most scans. Margin: nats "
            "per structure by which this numbering beats its shifts.",
        ),
        Section("Viewer", viewer_blocks(views, anatomy, corrections=True), VIEWER_INTRO),
        Section("Pictures", _pictures(listed, stored=pages is None)),
        Section("Structures", [_structure_table(listed, anatomy)] if any(o.structures for o in listed) else []),
        Section("Alarms and notes", [_meanings()]),
        Section(
            "Skipped",
            [_skipped_table(skipped, roots)] if skipped else [],
            "Files of the searched folders that were taken for no scans.",
        ),
        Section("Settings", [settings_table(settings)] if settings else []),
    ]
    page = render_page(title, SUBTITLE, sections, f"Made by cps4_monai {__version__}.")
    return text_bytes(page)


def _cards(listed: Sequence[ScanOutcome], skipped: Sequence[ScanOutcome]) -> Cards:
    counts = Counter(outcome.status for outcome in listed)
    flagged = sum(outcome.needs_a_look and outcome.status != "failed" for outcome in listed)
    times = [outcome.seconds for outcome in listed if outcome.status == "done"]
    told = {"done": "done", "kept": "kept", "mask": "label maps looked at"}
    noted = ", ".join(f"{counts[status]} {words}" for status, words in told.items() if counts[status])
    return Cards(
        [
            Card("Scans", str(len(listed) - counts["failed"]), noted, strong=True),
            Card("To look at", str(flagged), "alarms that question the result"),
            Card("Failed", str(counts["failed"]), "reasons in the table and in failures.csv"),
            Card("Skipped", str(len(skipped)), "files that are no scans"),
            Card("Time per scan", f"{np.median(times):.1f} s" if times else "–", "median, all parts"),
        ]
    )


def _scan_table(
    listed: Sequence[ScanOutcome], anatomy: Anatomy, roots: Sequence[Path | None], links: Mapping[str, str]
) -> Table:
    rows = [_scan_cells(place, outcome, anatomy, roots, links) for place, outcome in enumerate(listed)]
    return Table(
        ("scan", "status", "alarms", "levels", "margin", "seconds", "reason or warnings", "notes"),
        rows,
        words=True,
        filtered=True,
    )


def _scan_cells(
    place: int, outcome: ScanOutcome, anatomy: Anatomy, roots: Sequence[Path | None], links: Mapping[str, str]
) -> list[Cell]:
    """A row of the table of scans, whose place is that of its urgency."""
    failed, margin = outcome.status == "failed", outcome.summary.margin
    lowest, topmost, count = levels_in_view(outcome, anatomy)
    found = (
        f"{count} {'structure' if count == 1 else 'structures'}"
        if names_are_trusted(outcome.alarms)
        else f"{count}, not named"
    )
    told = outcome.reason.removeprefix(f"{outcome.source}: ") if failed else "; ".join(outcome.warnings)
    told = without_folder(told, *roots)
    return [
        Cell(outcome.name, outcome.name, link=links.get(outcome.name, "")),
        Cell(outcome.status, outcome.status, "bad" if failed else ""),
        Cell(", ".join(outcome.alarms) or "–", place, "warn" if outcome.alarms else "muted"),
        Cell(f"{lowest} to {topmost}" if lowest else found if count else "–", count),
        number(float("nan") if margin is None else margin, 2),
        number(outcome.seconds or float("nan"), 1),
        Cell(told, told, "bad" if failed else "note"),
        Cell(", ".join(outcome.notes) or "–", len(outcome.notes), "note"),
    ]


def _structure_table(listed: Sequence[ScanOutcome], anatomy: Anatomy) -> Table:
    colours, rows = hex_colours(anatomy), []
    by_code: dict[int, list[tuple[str, float, float | None]]] = defaultdict(list)
    for outcome in (one for one in listed if names_are_trusted(one.alarms)):
        for s in outcome.structures:
            by_code[s["code"]].append((s["state"], s["volume_ml"], s["confidence"]))
    for structure in anatomy.foreground:
        states = Counter(state for state, _, _ in by_code[structure.code])
        whole = [volume for state, volume, _ in by_code[structure.code] if state == "present"]
        sure = [confidence for _, _, confidence in by_code[structure.code] if confidence is not None]
        rows.append(
            [
                Cell(structure.name, structure.code, "", colours[structure.code]),
                *(
                    Cell(str(states[s]), states[s], "" if states[s] else "muted")
                    for s in ("present", "cut", "absent", "not_trained")
                ),
                number(float(np.median(whole)) if whole else float("nan"), 1),
                number(float(np.mean(sure)) if sure else float("nan"), 2),
            ]
        )
    columns = ("structure", "present", "cut", "absent", "not trained", "median ml (whole)", "mean confidence")
    return Table(columns, rows, "Volumes are those within the slab. Scans in an unusual contrast are left out.")


def _pictures(listed: Sequence[ScanOutcome], *, stored: bool) -> list[Any]:
    """The first pictures: stored in the page, or beside their label maps, from where they are loaded when looked at."""
    drawn = [outcome for outcome in listed if outcome.picture is not None]
    figures = []
    for outcome in drawn[:MAX_PICTURES]:
        png = _read(outcome.picture) if stored else b""
        if png is not None:
            address = "" if stored else quote(os.fsencode(f"{outcome.name}_qc.png"))
            figures.append(Figure(png, outcome.name, ". ".join(outcome.alarm_words), alt=outcome.name, address=address))
    more = len(drawn) - MAX_PICTURES
    rest = [Text(f"{more} more lie beside their label maps (*_qc.png).")] if more > 0 else []
    return [Gallery(figures, wide=True), *rest] if figures else []


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        logger.warning("no picture in the report: %s", error)
        return None


def _meanings() -> Table:
    rows = [[_text(name), Cell(flag.kind, flag.kind), _text(flag.words)] for name, flag in FLAGS.items()]
    return Table(("flag", "kind", "what it says"), rows, words=True)


def _skipped_table(skipped: Sequence[ScanOutcome], roots: Sequence[Path | None]) -> Table:
    rows = [
        [_text(without_folder(text, *roots)) for text in (str(outcome.source), outcome.reason)] for outcome in skipped
    ]
    return Table(("file", "reason"), rows, words=True)


def _text(value: object) -> Cell:
    return Cell(str(value), str(value))
