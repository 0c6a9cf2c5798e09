"""The scans of a run as its report shows them: in one page, or, where there are many, a page a scan and an index."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np

from cps4_monai import __version__
from cps4_monai.anatomy import Anatomy
from cps4_monai.data.label_ownership import is_ours, sidecar_of
from cps4_monai.data.volume import check_pair, read_volume
from cps4_monai.encoding import text_bytes
from cps4_monai.inference.outcome import ScanOutcome, by_urgency
from cps4_monai.inference.prepared import load_scan
from cps4_monai.inference.run_report import SUBTITLE, run_report
from cps4_monai.report.page import Section, render_page
from cps4_monai.report.slab import sagittal_slab
from cps4_monai.report.viewer import MAX_IN_PAGE, NIIVUE, View, Viewer, niivue_code, run_of, view_of_slab

logger = logging.getLogger(__name__)
REPORT = "report.html"
LAYER = "labels"


def report_files(
    outcomes: Sequence[ScanOutcome],
    anatomy: Anatomy,
    *,
    title: str = "Spine segmentation",
    settings: Mapping[str, Any] | None = None,
    views: bool = True,
    jobs: int = 2,
) -> Iterator[dict[str, bytes]]:
    """Names and contents of the report's files, a few at a time; the page that the others belong to comes last.

    Args:
        outcomes: of all inputs.
        anatomy: the classes.
        title: of the page.
        settings: of the run, in words.
        views: whether scans can be looked at in it; without, it has tables and the pictures that are there.
        jobs: scans read at a time.
    """
    listed = by_urgency([one for one in outcomes if one.label is not None])
    shown = listed if views and niivue_code() is not None else []
    if len(shown) <= MAX_IN_PAGE:
        made = [view for view in _views(shown, anatomy, jobs) if view is not None]
        yield {REPORT: run_report(outcomes, anatomy, title=title, settings=settings, views=made)}
        return
    pages = {one.name: f"{one.name}_view.html" for one in shown}
    run = run_of([View(one.name, b"", {LAYER: one.label.read_bytes()}) for one in shown if one.label is not None])
    yield {NIIVUE: niivue_code() or b""}
    for place, view in enumerate(_views(shown, anatomy, jobs)):
        yield {pages[shown[place].name]: _scan_page(view, shown[place].name, anatomy, list(pages.values()), place, run)}
    links = {name: quote(page) for name, page in pages.items()}
    yield {REPORT: run_report(outcomes, anatomy, title=title, settings=settings, pages=links)}


def series_uid(sidecar: Mapping[str, Any]) -> str | None:
    """The series of a DICOM folder that a label map was made of."""
    series = sidecar.get("Series")
    return series.get("InstanceUID") if isinstance(series, dict) else None


def scan_view(outcome: ScanOutcome, anatomy: Anatomy) -> View:
    """A scan and its label map, read again from their files; where the scan is not there, the label map on black.

    Raises:
        ValueError: a file cannot be used, or they do not fit each other.
    """
    assert outcome.label is not None
    sidecar = _sidecar(outcome.label)
    spacing = sidecar.get("Settings", {}).get("AssumeSpacing")
    label = read_volume(outcome.label, is_label=True, num_classes=anatomy.num_classes, assume_spacing=spacing)
    image, missing = np.zeros(label.shape, dtype=np.uint8), [] if outcome.source.exists() else ["its scan is not there"]
    if outcome.source != outcome.label and not missing:
        scan = load_scan(outcome.source, label.spacing_mm, series_uid(sidecar))
        check_pair(scan, label)
        image = scan.array
    return view_of_slab(
        outcome.name,
        sagittal_slab(image, {LAYER: label.array}, label.affine),
        note=". ".join([*outcome.alarm_words, *missing]),
        flagged=outcome.needs_a_look,
        label_sha256=_shown_sha256(outcome),
        weights_sha256=(sidecar.get("Weights") or {}).get("Sha256"),
        fixed=tuple(s["code"] for s in outcome.structures if s.get("state") == "not_trained"),
    )


def _views(outcomes: Sequence[ScanOutcome], anatomy: Anatomy, jobs: int) -> Iterator[View | None]:
    """In their order; None, and a warning, for a scan that cannot be shown."""

    def one(outcome: ScanOutcome) -> View | None:
        try:
            return scan_view(outcome, anatomy)
        except Exception as error:  # whatever is wrong with one scan, the report of the others is written
            logger.warning("%s is not in the report's viewer: %s", outcome.name, error)
            return None

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for start in range(0, len(outcomes), MAX_IN_PAGE):
            yield from pool.map(one, outcomes[start : start + MAX_IN_PAGE])


def _scan_page(view: View | None, name: str, anatomy: Anatomy, pages: Sequence[str], place: int, run: str) -> bytes:
    """The page of one scan of many, with the way to its neighbours and to the index."""
    folder = PurePosixPath(pages[place]).parent

    def address(page: str) -> str:
        return quote(os.fsencode(os.path.relpath(page, folder).replace(os.sep, "/")))

    viewer = Viewer(
        [] if view is None else [view],
        anatomy,
        corrections=True,
        script=address(NIIVUE),
        pages=[address(page) for page in pages],
        place=place,
        index=address(REPORT),
        run=run,
    )
    section = Section("Viewer", [viewer], f"Scan {place + 1} of {len(pages)}.")
    return text_bytes(render_page(name, SUBTITLE, [section], f"Made by cps4_monai {__version__}."))


def _shown_sha256(outcome: ScanOutcome) -> str | None:
    """SHA-256 of the label map as its sidecar has it; None where that is of another."""
    assert outcome.label is not None
    return _sidecar(outcome.label).get("Sha256") if is_ours(outcome.label) else None


def _sidecar(label: Path) -> dict[str, Any]:
    try:
        record = json.loads(sidecar_of(label).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}
