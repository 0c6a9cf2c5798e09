"""From a folder of predictions to tables, pictures, label tables and the report: what `cps4 report` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.data.datalist import load_datalist
from cps4_monai.data.label_ownership import assumed_spacing_of, check_anatomy_of, is_ours
from cps4_monai.data.run_files import SCORES, RunFiles
from cps4_monai.data.scans_of_labels import scans_of
from cps4_monai.data.volume import check_pair, read_volume
from cps4_monai.evaluation.case import read_pair
from cps4_monai.evaluation.folder import FILES, Evaluation, evaluate_cases
from cps4_monai.evaluation.matching import Case, Matching, match_entries, match_folder
from cps4_monai.metrics.tables import OVERALL, SUMMARY_COLUMNS
from cps4_monai.report.attention_pictures import Attention
from cps4_monai.report.curves import read_metrics
from cps4_monai.report.evaluation_report import ReportContent, evaluation_page
from cps4_monai.report.label_tables import label_tables
from cps4_monai.report.pictures import side_by_side, slice_rows
from cps4_monai.report.slab import Slab, sagittal_slab
from cps4_monai.report.viewer import DIFFERENT, MAX_IN_PAGE, View, view_of_slab, with_differences
from cps4_monai.scan_names import is_nifti

logger = logging.getLogger(__name__)
SECTIONS = ("test", "validation", "training")
DECODED, ARGMAX = "levels decoded", "plain argmax"
PAGE, COMPARISON = "report.html", "comparison.csv"


@dataclass(frozen=True)
class PredictionReport:
    """What was written: the page, the folder of tables, and the tables themselves.

    Attributes:
        html: the page.
        folder: with the tables.
        evaluation: tables of the predictions.
        argmax: tables of the plain argmax beside them, where it was given.
        has_levels: whether the anatomy has an order, by which levels are counted.
    """

    html: Path
    folder: Path
    evaluation: Evaluation
    argmax: Evaluation | None = None
    has_levels: bool = True

    def headline(self) -> list[str]:
        """One line per output: its mean Dice (b) with the interval, and in how many scans all levels are right."""
        outputs = {"Dice (b)": self.evaluation}
        if self.argmax is not None:
            outputs = {DECODED: self.evaluation, ARGMAX: self.argmax}
        return [f"{name}: {_headline(scored, self.has_levels)}" for name, scored in outputs.items()]


def find_cases(
    predictions: str | Path,
    labels: str | Path,
    anatomy: Anatomy,
    *,
    section: str = "test",
    dataset_dir: str | Path | None = None,
) -> tuple[Matching, tuple[int, ...]]:
    """Cases to score, and the codes that the data never label.

    Args:
        predictions: folder of predicted label maps.
        labels: folder of labels, or a datalist (JSON).
        anatomy: the classes.
        section: of the datalist: "test", "validation" or "training".
        dataset_dir: folder that the datalist's paths are relative to; None: the datalist's own.

    Raises:
        ValueError: nothing is found, names are ambiguous, no entry of the section has a label, or the datalist is of
            another anatomy.
    """
    labels = Path(labels)
    if labels.is_dir():
        return match_folder(predictions, labels), ()
    if section not in SECTIONS:
        raise ValueError(f"section is {section!r}; expected one of {list(SECTIONS)}")
    datalist = load_datalist(labels, dataset_dir)
    datalist.check_anatomy(anatomy)
    entries = [(e.image, e.label, e.patient) for e in getattr(datalist, section) if e.label is not None]
    if not entries:
        raise ValueError(f"{labels}: no labeled entry in {section!r}; choose another section or datalist")
    elsewhere = [e.image for side in datalist.sides.values() for e in side if side is not datalist.sides[section]]
    return match_entries(predictions, entries, elsewhere), tuple(datalist.unannotated)


def case_view(slab: Slab, name: str, note: str = "") -> View:
    """A case for the viewer: its prediction, its label, and where they differ."""
    maps = with_differences(slab, "prediction", "label").labels
    ordered = {title: maps[title] for title in ("prediction", "label", DIFFERENT)}
    return view_of_slab(name, replace(slab, labels=ordered), note=note)


def case_slab(case: Case, anatomy: Anatomy = MRSPINESEG) -> Slab:
    """Image, label and prediction of a case; without a scan (``case.image`` is None) the image is black.

    Raises:
        ValueError: a file cannot be read, or grids differ.
    """
    if case.pred is None:
        raise ValueError(f"{case.name} has no prediction to draw")
    pred, label = read_pair(case.pred, case.label, anatomy.num_classes)
    image = label.array * 0.0
    if case.image is not None:
        scan = read_volume(case.image, assume_spacing=assumed_spacing_of(case.pred))
        check_pair(scan, label)
        image = scan.array
    return sagittal_slab(image, {"label": label.array, "prediction": pred.array}, label.affine)


def chosen_cases(evaluation: Evaluation, limit: int) -> list[Case]:
    """Cases to draw, lowest Dice (b) first; beyond ``limit`` the lower half of it and an even choice of the rest."""
    order = evaluation.cases.sort_values("dice_b")["case"].tolist()
    by_name = {case.name: case for case in evaluation.scored}
    if len(order) > limit:
        worst, rest = order[: limit // 2], order[limit // 2 :]
        wanted = limit - len(worst)
        order = worst + [rest[round(i * (len(rest) - 1) / max(wanted - 1, 1))] for i in range(wanted)]
    return [by_name[name] for name in order if name in by_name]


@dataclass(frozen=True)
class _Drawn:
    """What the report shows of one case: its pictures, and the scan for the viewer."""

    title: str
    pair: tuple[bytes, bytes]
    view: View


def _draw(evaluation: Evaluation, limit: int, anatomy: Anatomy, jobs: int) -> list[_Drawn]:
    """The chosen cases; one that cannot be drawn is left out with a warning."""
    dice = evaluation.cases.set_index("case")["dice_b"]

    def drawn_case(case: Case) -> _Drawn | None:
        note = f"Dice (b) {dice[case.name]:.3f}"
        try:
            slab = case_slab(case, anatomy)
            pair = side_by_side(slab, anatomy), slice_rows(slab, anatomy)
            return _Drawn(f"{case.name} · {note}", pair, case_view(slab, case.name, note))
        except (ValueError, OSError) as error:
            logger.warning("no picture of %s: %s", case.name, error)
            return None

    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        return [drawn for drawn in pool.map(drawn_case, chosen_cases(evaluation, limit)) if drawn is not None]


def check_tables(output: str | Path, anatomy: Anatomy, argmax: bool = False, protect: bool = False) -> RunFiles:
    """The tables and pages of a report at the top of its folder, once it is sure that they may be written.

    Args:
        output: folder to write into.
        anatomy: the classes.
        argmax: whether the plain argmax is compared.
        protect: see :func:`report_predictions`.

    Raises:
        ForeignFileError: the folder holds results of other commands; with ``protect``, a file that is not ours.
    """
    files = RunFiles(output, SCORES, own=not protect)
    files.check((*FILES.values(), *label_tables(anatomy), PAGE, *((COMPARISON,) if argmax else ())))
    return files


def report_predictions(
    predictions: str | Path,
    labels: str | Path,
    output: str | Path,
    *,
    anatomy: Anatomy = MRSPINESEG,
    unannotated: Sequence[int] | None = None,
    images: str | Path | None = None,
    section: str = "test",
    dataset_dir: str | Path | None = None,
    title: str = "Spine segmentation report",
    settings: Mapping[str, Any] | None = None,
    attention: Attention | None = None,
    metrics: str | Path | None = None,
    comparison: Mapping[str, Evaluation] | None = None,
    method: str = "",
    attribution: str = "",
    argmax: str | Path | None = None,
    max_pictures: int = 30,
    jobs: int = 2,
    protect: bool = False,
) -> PredictionReport:
    """Score predictions; write `structures`, `cases`, `summary` and `failures.csv`, label tables and `report.html`.

    Args:
        predictions: folder of predicted label maps.
        labels: folder of labels (scans beside them are used for pictures), or a datalist (JSON).
        output: folder to write into.
        anatomy: the classes.
        unannotated: codes that were never labeled; None: as the datalist says, or none.
        images: folder of the scans, for pictures; None: the datalist's, those beside the labels, or those that the
            JSONs of the predictions name.
        section: of the datalist.
        dataset_dir: of the datalist.
        title: of the page.
        settings: of the run, shown as a table.
        attention: attention maps of the run's stage 1.
        metrics: `metrics.csv` or TensorBoard folder of the training run.
        comparison: method -> its scores; the page says where they are of other scans.
        method: name of what is scored here, beside the others of the comparison; "" leaves it out of that chart.
        attribution: where the scans are from and under which licence.
        argmax: folder of the same network's plain argmax, scored beside predictions whose levels are decoded; its
            tables go to the folder above it.
        max_pictures: cases drawn, the worst first.
        jobs: cases at a time.
        protect: ``output`` was named by a person: a file in it that is not ours, or was changed since, is never
            replaced. Else it is a run's own folder, as that of `cps4 evaluate`.

    Raises:
        ValueError: nothing to score, ambiguous names, predictions made with another anatomy, or not a single case could
            be scored.
        ForeignFileError: before any work: ``output`` holds results of other commands, as of `cps4 segment`; with
            ``protect``, a file that is not ours.
    """
    output = Path(output)
    files = check_tables(output, anatomy, argmax is not None, protect)
    curves = None if metrics is None else read_metrics(metrics)
    matching, declared = find_cases(predictions, labels, anatomy, section=section, dataset_dir=dataset_dir)
    matching = _with_scans(matching, Path(predictions), images)
    if not protect:
        matching = _without_earlier_ones(matching)
    for case in matching.cases:
        if case.pred is not None:
            check_anatomy_of(case.pred, anatomy)
    unannotated = declared if unannotated is None else tuple(unannotated)
    evaluation = evaluate_cases(matching, anatomy, unannotated, jobs=jobs)
    files.write({**evaluation.csv_texts(), **label_tables(anatomy)})
    _require_scores(evaluation, len(matching.cases), output)
    beside, compared = None, dict(comparison or {})
    if argmax is not None:
        others, _ = find_cases(argmax, labels, anatomy, section=section, dataset_dir=dataset_dir)
        others = others if protect else _without_earlier_ones(others)
        beside = evaluate_cases(others, anatomy, unannotated, jobs=jobs)
        RunFiles(Path(argmax).parent, SCORES, own=not protect).write(beside.csv_texts())
        outputs = {DECODED: evaluation, ARGMAX: beside}
        files.write({COMPARISON: _overall_figures({name: scored.summary for name, scored in outputs.items()})})
        compared |= outputs
    compared |= {method: evaluation} if method else {}
    drawn = _draw(evaluation, max_pictures, anatomy, jobs)
    content = ReportContent(
        evaluation=evaluation,
        anatomy=anatomy,
        unannotated=unannotated,
        title=title,
        settings=settings or {},
        views=[case.view for case in drawn[:MAX_IN_PAGE]],
        pictures={case.title: case.pair[0] for case in drawn},
        mosaics={case.title: case.pair[1] for case in drawn},
        attention=attention or Attention(),
        curves=curves,
        comparison=compared,
        attribution=attribution,
    )
    files.write({PAGE: evaluation_page(content)})
    result = PredictionReport(output / PAGE, output, evaluation, beside, bool(anatomy.along_spine()))
    for line in result.headline():
        logger.info(line)
    return result


def _without_earlier_ones(matching: Matching) -> Matching:
    """Without label maps of ours that belong to no scan of the section: an earlier evaluation left them there."""
    ours = {path for path in matching.unmatched_predictions if is_ours(path)}
    if ours:
        logger.info("%d label maps of an earlier evaluation, of other scans, are there and not scored", len(ours))
    return replace(
        matching, unmatched_predictions=tuple(path for path in matching.unmatched_predictions if path not in ours)
    )


def _with_scans(matching: Matching, predictions: Path, images: str | Path | None) -> Matching:
    """Cases with the scans in ``images``; without such a folder, those that have none with what their JSON names."""
    asked = [case.pred for case in matching.cases if case.pred and (images is not None or case.image is None)]
    found = scans_of(asked, predictions, images) if asked else {}
    found = {pred: scan for pred, scan in found.items() if is_nifti(scan)}  # a DICOM series is not drawn here
    cases = [replace(case, image=found[case.pred]) if case.pred in found else case for case in matching.cases]
    black = [case.name for case in cases if case.pred and case.image is None]
    if black and images is not None:
        told = "of %d cases no scan, or several, were found in %s, so that their pictures are on black: %s%s"
        logger.warning(told, len(black), images, ", ".join(black[:5]), " ..." if len(black) > 5 else "")
    return replace(matching, cases=tuple(cases))


def _require_scores(evaluation: Evaluation, count: int, output: Path) -> None:
    """Refuses an evaluation in which not one of ``count`` cases could be scored."""
    if evaluation.cases.empty:
        reasons = "; ".join(f"{row.case}: {row.reason}" for row in evaluation.failures.head(3).itertuples())
        raise ValueError(f"none of {count} cases could be scored ({reasons}); see {output}/failures.csv")


def _overall_figures(summaries: Mapping[str, pd.DataFrame]) -> str:
    """The overall rows of summaries by the name of their output, as CSV."""
    overall = pd.concat([t[t["structure"] == OVERALL].assign(output=name) for name, t in summaries.items()])
    table: str = overall[["output", *SUMMARY_COLUMNS]].to_csv(index=False, float_format="%.6g")
    return table


def _headline(evaluation: Evaluation, has_levels: bool) -> str:
    dice, cases = evaluation.overall("dice_b"), evaluation.cases
    interval = f" ({dice['ci_low']:.3f} to {dice['ci_high']:.3f})" if dice["ci_low"] == dice["ci_low"] else ""
    levels = cases["all_levels_right"]
    right = f", all levels right in {int(levels.sum())} of {levels.count()} scans"
    return f"{dice['mean']:.3f}{interval}{right if has_levels else ''}"
