"""The scans of a run as its report shows them: in one page, or, where there are many, a page a scan and an index."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import numpy as np

from cps4_monai import __version__
from cps4_monai.anatomy import Anatomy
from cps4_monai.data.label_file import structures_alone
from cps4_monai.data.label_ownership import assumed_spacing_of, record_beside, weights_sha256
from cps4_monai.data.volume import check_pair, read_volume
from cps4_monai.encoding import text_bytes
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.outcome import ScanOutcome, by_urgency
from cps4_monai.inference.prepared import load_scan
from cps4_monai.inference.run_report import SUBTITLE, run_report
from cps4_monai.inference.scan_files import series_uid
from cps4_monai.report.page import Section, render_page
from cps4_monai.report.slab import sagittal_slab
from cps4_monai.report.viewer import MAX_IN_PAGE, NIIVUE, View, Viewer, niivue_code, run_of, view_of_slab

logger = logging.getLogger(__name__)
REPORT = "report.html"
LAYER = "labels"
PAGES_AT_A_TIME = 50  # that are in memory before they are written
T = TypeVar("T")
R = TypeVar("R")


class Spread(Protocol):
    """A :func:`map` that may work on several items at a time; answers come in the order of the items."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """Answers as they are ready."""
        ...


def spread_over_threads(jobs: int) -> Spread:
    """A map that works on ``jobs`` items at a time, and takes no more than a page's worth of them ahead."""

    def spread(function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        waiting = iter(items)
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            while part := list(islice(waiting, MAX_IN_PAGE)):
                yield from pool.map(function, part)

    return spread


def report_files(
    outcomes: Sequence[ScanOutcome],
    anatomy: Anatomy,
    *,
    title: str = "Spine segmentation",
    settings: Mapping[str, Any] | None = None,
    views: bool = True,
    spread: Spread = map,
) -> Iterator[dict[str, bytes]]:
    """Names and contents of the report's files, a few at a time; the page that the others belong to comes last.

    Args:
        outcomes: of all inputs.
        anatomy: the classes.
        title: of the page.
        settings: of the run, in words.
        views: whether scans can be looked at in it; without, it has tables and the pictures that are there.
        spread: reads the scans and makes their pages.
    """
    listed = by_urgency([outcome for outcome in outcomes if outcome.label is not None])
    shown = listed if views and niivue_code() is not None else []
    if len(shown) <= MAX_IN_PAGE:
        made = [view for view in spread(partial(_view, anatomy), shown) if view is not None]
        yield {REPORT: run_report(outcomes, anatomy, title=title, settings=settings, views=made)}
        return
    pages = [f"{outcome.name}_view.html" for outcome in shown]
    run = run_of(View(outcome.name, b"", {LAYER: outcome.label.read_bytes()}) for outcome in shown if outcome.label)
    yield {NIIVUE: niivue_code() or b""}
    places = (_place(number, outcome, pages) for number, outcome in enumerate(shown))
    weights = {weights_sha256(record_beside(outcome.label)) for outcome in shown if outcome.label}
    made_pages = zip(pages, spread(partial(_scan_page, anatomy, run, len(weights) == 1), places), strict=True)
    while part := dict(islice(made_pages, PAGES_AT_A_TIME)):
        yield part
    links = {outcome.name: quote(os.fsencode(page)) for outcome, page in zip(shown, pages, strict=True)}
    yield {REPORT: run_report(outcomes, anatomy, title=title, settings=settings, pages=links)}


@dataclass(frozen=True)
class _Place:
    """A scan of many, its number from 0, names of its page and of those beside it in order, and how many there are."""

    outcome: ScanOutcome
    number: int
    near: tuple[str, ...]
    total: int

    @property
    def here(self) -> int:
        """Which of the pages is its own."""
        return min(1, self.number)


def _place(number: int, outcome: ScanOutcome, pages: Sequence[str]) -> _Place:
    return _Place(outcome, number, tuple(pages[max(0, number - 1) : number + 2]), len(pages))


def scan_view(outcome: ScanOutcome, anatomy: Anatomy) -> View:
    """A scan and its label map, read again from their files; where the scan is not there, the label map on black.

    Raises:
        ValueError: a file cannot be used, or they do not fit each other.
    """
    assert outcome.label is not None
    sidecar = record_beside(outcome.label)
    spacing = assumed_spacing_of(outcome.label)
    label = read_volume(
        outcome.label, is_label=True, num_classes=anatomy.num_classes, assume_spacing=spacing, partly_annotated=True
    )
    image, missing = np.zeros(label.shape, dtype=np.uint8), [] if outcome.source.exists() else ["its scan is not there"]
    if outcome.source != outcome.label and not missing:
        scan = load_scan(outcome.source, label.spacing_mm, series_uid(sidecar))
        check_pair(scan, label)
        image = scan.array
    return view_of_slab(
        outcome.name,
        sagittal_slab(image, {LAYER: structures_alone(label.array)}, label.affine),
        note=". ".join([*outcome.alarm_words, *missing]),
        flagged=outcome.needs_a_look,
        label_sha256=file_sha256(outcome.label),  # as it is, edited or not: what is said on the page is of that one
        weights_sha256=weights_sha256(sidecar),
        fixed=tuple(s["code"] for s in outcome.structures if s.get("state") == "not_trained"),
    )


def _view(anatomy: Anatomy, outcome: ScanOutcome) -> View | None:
    """None, and a warning, for a scan that cannot be shown."""
    try:
        return scan_view(outcome, anatomy)
    except Exception as error:  # whatever is wrong with one scan, the report of the others is written
        logger.warning("%s is not in the report's viewer: %s", outcome.name, error)
        return None


def _scan_page(anatomy: Anatomy, run: str, one_weights: bool, place: _Place) -> bytes:
    """The page of one scan of many, with the way to its neighbours and to the index.

    The browser keeps the corrections of all pages together and saves them as one file.
    """
    view = _view(anatomy, place.outcome)
    folder = PurePosixPath(place.near[place.here]).parent

    def address(page: str) -> str:
        return quote(os.fsencode(os.path.relpath(page, folder).replace(os.sep, "/")))

    viewer = Viewer(
        [] if view is None else [view],
        anatomy,
        corrections=True,
        script=address(NIIVUE),
        pages=[address(page) for page in place.near],
        place=place.here,
        index=address(REPORT),
        run=run,
        one_weights=one_weights,
    )
    section = Section("Viewer", [viewer], f"Scan {place.number + 1} of {place.total}.")
    return text_bytes(render_page(place.outcome.name, SUBTITLE, [section], f"Made by cps4_monai {__version__}."))
