"""The report of the studies in a folder of runs: an HTML page, and the same as Markdown with its pictures beside it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cps4_monai import __version__
from cps4_monai.bench.provenance import attribution_of, how_it_was_made, runs_table
from cps4_monai.bench.results import StudyResults, find_studies, load_results
from cps4_monai.bench.sections import study_sections
from cps4_monai.report.markdown import MarkdownPage
from cps4_monai.report.page import Section, Text, write_page

METHOD = (
    "On the scan's own grid, by conventions (a) slice-wise with background, (b) per subject in 3-D over the classes of "
    "the label, (c) as b with false classes counting 0. Seeds are averaged per subject before anything else; intervals "
    "are 95 % percentile bootstraps over subjects, SD is over the seeds' means. Differences are paired by subject on "
    "the seeds that both methods have; p is the two-sided Wilcoxon signed-rank test, not corrected for the number of "
    "comparisons: with n subjects it cannot fall below 2 / 2^n."
)


@dataclass(frozen=True)
class StudyReport:
    """The files, and the results behind them."""

    html: Path
    markdown: Path
    results: tuple[StudyResults, ...]


def write_study_report(
    runs: Path,
    output: Path,
    *,
    section: str = "validation",
    studies: Sequence[str] = (),
    baseline: str | None = None,
    title: str = "Studies",
    attribution: str | None = None,
    pictures: bool = True,
) -> StudyReport:
    """Writes ``studies.html``, ``studies.md`` and the folder ``studies`` with the pictures of the latter.

    Args:
        runs: folder of the runs.
        output: folder to write into.
        section: "validation", on which methods and settings are chosen, or "test".
        studies: names; none: all in the folder.
        baseline: method to compare with; None: each study's own.
        title: of the page.
        attribution: where the scans are from and under which licence; None: as the datalist says.
        pictures: whether worst cases and attention maps are drawn.

    Raises:
        ValueError: no study, no done cell, a section that is not evaluated, or an unknown baseline.
    """
    manifests = find_studies(runs, studies)
    results = tuple(load_results(manifest, runs, section) for manifest in manifests)
    sections: list[Section] = []
    for study in results:
        chosen_on = None
        if section == "test" and "validation" in study.manifest["evaluate"]:
            chosen_on = load_results(study.manifest, runs, "validation")
        sections += study_sections(study, baseline or study.manifest["baseline"], chosen_on, pictures)
    sections.append(Section("Runs", runs_table(results)))
    source = attribution_of(results) if attribution is None else attribution
    footer = f"Made by cps4_monai {__version__}. Research use only. {source}".strip()
    command = ["cps4", "bench", "report", "RUNS", "-o", output.name, "--section", section]
    command += [part for name in studies for part in ("--study", name)]
    command += [*(["--baseline", baseline] if baseline else []), *([] if pictures else ["--no-pictures"])]
    header = how_it_was_made(results, shlex.join(command))
    scored = f"Scored on the {section} subjects."
    about = Section("How it was made", [Text(text.replace("`", "")) for text in (*header, METHOD)])
    html = write_page(output / "studies.html", title, scored, [about, *sections], footer)
    markdown = MarkdownPage(output / "studies.md").write(title, [scored, *header, METHOD], sections, footer)
    return StudyReport(html, markdown, results)
