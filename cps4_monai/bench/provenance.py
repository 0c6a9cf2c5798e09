"""How the figures of a report were made: commands, dates, machines, versions, seeds, iterations, labeled subjects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.bench.folders import DONE, read_json_or_empty
from cps4_monai.bench.plan import ATTRIBUTION
from cps4_monai.bench.results import StudyResults
from cps4_monai.report.page import Block, Cell, Table, Text
from cps4_monai.run_folder import RECORD, STAGE1

PACKAGES = ("torch", "monai", "timm", "numpy")


def how_it_was_made(results: Sequence[StudyResults], report_command: str) -> list[str]:
    """Paragraphs for the head of a report.

    Args:
        results: the studies of the report.
        report_command: the command that makes the report.
    """
    cells = [cell for study in results for cell in study.cells]
    commands = [*(study.manifest["command"] for study in results), report_command]
    days = sorted({str(day)[:10] for cell in cells for day in cell.done["finished"].values()})
    machines = _some(
        f"{cell.done['machine']}, device {cell.run['device']}, {cell.run['threads']} threads a job" for cell in cells
    )
    versions = [cell.run["versions"] for cell in cells]
    packages = "; ".join(f"{name} {_some(v.get(name, 'unknown') for v in versions)}" for name in PACKAGES)
    commits = _some(v.get("commit", f"release {v['cps4-monai']}") for v in versions)
    stage1 = {cell.stage1: _last_start(cell.stage1 / STAGE1 / RECORD) for cell in cells if cell.stage1 is not None}
    iterations = _some(str(cell.run["iterations"]) for cell in cells)
    first = _some(str(start.get("iterations", 0)) for start in stage1.values())
    return [
        f"Commands: {'; '.join(f'`{command}`' for command in commands)}.",
        f"Made {' to '.join(dict.fromkeys((days[0], days[-1])))} on {machines}. Seeds {_some(c.seed for c in cells)}.",
        f"Iterations of stage 2: {iterations}" + (f"; of stage 1: {first}" if stage1 else "") + ".",
        f"Commit {commits}; {packages}.",
    ]


def runs_table(results: Sequence[StudyResults]) -> list[Block]:
    """A row per cell: labeled subjects, configs, time; and what each folder holds."""
    rows, others = [], []
    for study in results:
        for cell in study.cells:
            labeled = cell.run["settings"]["labeled_subjects"]
            names = ", ".join(labeled) if len(labeled) <= 5 else f"{len(labeled)} subjects"
            overlays = ", ".join(Path(name).name for name in cell.task["overlays"])
            minutes = cell.done["seconds"]["training"] / 60
            done = {} if cell.stage1 is None else read_json_or_empty(cell.stage1 / DONE)
            before = done.get("seconds", {}).get("training", 0.0) / 60  # nothing where only the cell is there
            if len({record["stage1_sha256"] for record in (done, cell.done) if "stage1_sha256" in record}) > 1:
                others.append(cell.name)
            commit = str(cell.run["versions"].get("commit", ""))
            rows.append(
                [
                    Cell(cell.name, cell.name),
                    Cell(names, len(labeled)),
                    Cell(overlays, overlays),
                    Cell(f"{minutes:.1f}", minutes),
                    Cell(f"{before:.1f}" if before else "", before),
                    Cell(str(cell.done["finished"]["training"])[:10]),
                    Cell(commit[:10] + ("+changes" if commit.endswith("+changes") else "")),
                ]
            )
    note = (
        "Minutes of training beside other jobs; cells with the same stage 1 share it. Each cell's folder holds its "
        "merged config, the command, versions, log, metrics, weights and predictions."
    )
    if others:
        note += (
            " Stage 1 was trained again, with the same settings, after the training of "
            f"{', '.join(others)}: its scores are not of the stage 1 that they had."
        )
    head = ("cell", "labeled subjects", "overlays", "stage 2, min", "stage 1, min", "date", "commit")
    return [Table(head, rows), Text(note)]


def attribution_of(results: Sequence[StudyResults]) -> str:
    """Name and licence of the data as manifests, or else datalists, state them; "" where none does."""
    sources: dict[str, None] = {}
    for content in _stated_of_data(results):
        stated = [str(content[key]) for key in ATTRIBUTION if content.get(key)]
        if stated:
            sources[". ".join(["Scans: " + stated[0], *stated[1:]]) + "."] = None
    return " ".join(sources)


def _stated_of_data(results: Sequence[StudyResults]) -> Iterator[Mapping[str, Any]]:
    """What is known of the data of each study; an archive leaves the datalist's name, which leads nowhere."""
    for study in results:
        if "data" in study.manifest:
            yield study.manifest["data"]
            continue
        lists = dict.fromkeys(Path(cell.task["places"]["datalist"]) for cell in study.cells)
        yield from (read_json_or_empty(path) for path in lists if path.is_absolute())


def _last_start(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    last: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["starts"][-1]
    return last


def _some(values: Iterable[Any]) -> str:
    """The different values in order, joined."""
    return ", ".join(str(value) for value in dict.fromkeys(values))
