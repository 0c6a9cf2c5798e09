"""What is done for one scan of a run, in three steps that may run in different threads; a fault is its outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cps4_monai.data.label_ownership import assumed_spacing_of, check_anatomy_of
from cps4_monai.data.scan_labels import ScanScores
from cps4_monai.data.volume import looks_like_label_map, read_volume
from cps4_monai.inference.hand_on import HandOn
from cps4_monai.inference.outcome import ScanOutcome, reason_of
from cps4_monai.inference.prepared import PreparedScan, load_scan, source_key
from cps4_monai.inference.scan_files import Finished, ScanFiles, draw_again, finished, replaced, write_segmentation
from cps4_monai.inference.segment import Segmenter, device_name
from cps4_monai.inference.settings_in_words import settings_in_words
from cps4_monai.inference.sources import Source

_LIKE_LABELS = "whole numbers, few of them: a label map"

logger = logging.getLogger(__name__)
OnScan = Callable[[ScanOutcome, int, int], None]


@dataclass
class ScanWork:
    """From a scan to its files.

    Attributes:
        segmenter: with its weights.
        output: folder of the run.
        overwrite: make label maps of ours again, but for those that a person corrected, accepted or marked.
        qc: draw a picture of each scan.
        hand_on: copies for other programs.
        identify: patient and study of DICOM series stand in the records as they are.
        go_on: called between the steps; what it raises ends the work before anything more is written.
        passed_on: errors that are no fault of the scan.
    """

    segmenter: Segmenter
    output: Path
    overwrite: bool
    qc: bool
    hand_on: HandOn
    identify: bool
    go_on: Callable[[], None] = lambda: None
    passed_on: Callable[[Exception], None] = lambda error: None

    def __call__(self, source: Source) -> ScanOutcome:
        """All steps, one behind the other."""
        begun = self.begin(source)
        if isinstance(begun, ScanOutcome):
            return begun
        scores = self.scores(source, begun)
        return scores if isinstance(scores, ScanOutcome) else self.finish(source, begun, scores)

    def begin(self, source: Source) -> PreparedScan | ScanOutcome:
        """Reads a scan, or says why there is nothing to do."""
        files = ScanFiles.at(self.output, source.name)
        try:
            there = self._finished(source, files, partial(source_key, source.path, source.series))
            if there is not None:
                return self._kept(source, files, there)
            started = time.perf_counter()
            volume = load_scan(source.path, self.segmenter.assume_spacing, source.series)
            seconds = time.perf_counter() - started
            if source.kind == "nifti" and looks_like_label_map(volume.array):
                if source.searched:
                    return ScanOutcome(source.path, source.name, "skipped", f"{_LIKE_LABELS}; if not, name the file")
                volume = replace(volume, warnings=(*volume.warnings, f"{_LIKE_LABELS}? It was segmented as a scan"))
            if self.identify and source.series is not None:
                volume = replace(volume, provenance={"Series": source.series.identity | source.series.identified})
            scan = self.segmenter.prepare(volume, keep_grey=self.qc)
            scan.seconds["read"] = seconds
            return scan
        except Exception as error:
            return self._failed(source, error)

    def scores(self, source: Source, scan: PreparedScan) -> ScanScores | ScanOutcome:
        """Runs the network."""
        try:
            self.go_on()
            return self.segmenter.scores(scan)
        except Exception as error:
            return self._failed(source, error)

    def finish(self, source: Source, scan: PreparedScan, scores: ScanScores) -> ScanOutcome:
        """Levels, labels on the scan's grid, and the files."""
        files = ScanFiles.at(self.output, source.name)
        try:
            self.go_on()
            result = self.segmenter.finish(scan, scores)
            self.go_on()
            there = self._finished(source, files, lambda: scan.content_key)  # by another call in the meantime
            if there is not None:
                return self._kept(source, files, there)
            self.hand_on.check_files(source, files)
            note = replaced(files, result.record) if self.overwrite else ""
            made = (result.labels, result.affine, result.anatomy, result.record)
            copies = partial(self.hand_on.write, source, files, *made, anew=True)
            lacking = write_segmentation(result, files, overwrite=self.overwrite, qc=self.qc, copies=copies)
            picture = _there(files.picture)
            return ScanOutcome(source.path, source.name, "done", note, files.label, picture, result.record, lacking)
        except Exception as error:
            return self._failed(source, error)

    def run_settings(self, series: str | int | None) -> dict[str, str]:
        """What the report says of a run, in words."""
        machine = f"torch {torch.__version__} on {device_name(self.segmenter.device)}"
        told = settings_in_words(self.segmenter.settings, self.segmenter.weights_record, machine)
        return told if series is None else {**told, "Series asked for": str(series)}

    def _finished(self, source: Source, files: ScanFiles, key_of: Callable[[], str]) -> Finished | None:
        """The label map of this scan, where it is there and stays."""
        series = source.series.uid if source.series is not None else None
        return finished(files, source.path, key_of, self.segmenter.settings, series=series, overwrite=self.overwrite)

    def _kept(self, source: Source, files: ScanFiles, there: Finished) -> ScanOutcome:
        """What is told of a label map that stays; its picture and copies, where they are not there."""
        self._check_same_anatomy(files)
        record: Mapping[str, Any] = there.record
        lacking = ""
        if there.edited or "Structures" not in record:  # the record says nothing of these labels
            from cps4_monai.inference.masks import outcome_of_mask  # it can draw, which few scans need

            anatomy, draw = self.segmenter.bundle.anatomy, self.qc and there.edited
            record = outcome_of_mask(files.label, source.name, self.output, source.path, anatomy, None, draw).record
        if self.qc and not files.picture.exists():
            self._draw(source, files)
        if not there.edited:
            lacking = self._copy_again(source, files)
        elif copies := self.hand_on.files(source, files):
            names = ", ".join(path.name for path in copies)
            lacking = f"no {names} of the labels as they were edited; 'cps4 relabel --accept' comes first"
        picture = _there(files.picture)
        return ScanOutcome(source.path, source.name, "kept", there.note, files.label, picture, record, lacking)

    def _check_same_anatomy(self, files: ScanFiles) -> None:
        """Tables, picture and copies of a label map that is kept are named by the anatomy of the weights here."""
        try:
            check_anatomy_of(files.label, self.segmenter.bundle.anatomy)
        except ValueError as error:
            raise ValueError(
                f"{files.label}: is there already, made with weights of another anatomy, by which it has other codes; "
                "expected one of these weights. Fix: choose another output folder, take the weights of before, or pass "
                "--overwrite (overwrite=True)"
            ) from error

    def _draw(self, source: Source, files: ScanFiles) -> None:
        """The picture of a label map that is there without one, on the spacing that it was made with."""
        spacing = assumed_spacing_of(files.label) or self.segmenter.assume_spacing
        scan = self.segmenter.prepare(load_scan(source.path, spacing, source.series))
        labels = read_volume(files.label, is_label=True, assume_spacing=scan.grid.spacing_mm).array
        assert scan.grey is not None
        draw_again(files, scan.grey, labels, scan.affine, self.segmenter.bundle.anatomy)

    def _copy_again(self, source: Source, files: ScanFiles) -> str:
        """Copies for other programs of a label map that is there without them; which cannot be made, and why."""
        if all(path.exists() for path in self.hand_on.files(source, files)):
            return ""
        labels = read_volume(files.label, is_label=True, assume_spacing=assumed_spacing_of(files.label))
        anatomy = self.segmenter.bundle.anatomy
        return self.hand_on.write(source, files, labels.array, labels.affine, anatomy, files.record)

    def _failed(self, source: Source, error: Exception) -> ScanOutcome:
        """One bad scan never stops the others, whatever is wrong with it."""
        self.passed_on(error)
        logger.debug("%s failed", source.path, exc_info=error)
        return ScanOutcome(source.path, source.name, "failed", reason_of(error))


@dataclass
class Tally:
    """Outcomes as they come.

    Attributes:
        total: how many there will be.
        on_scan: called with each, how many are done and how many there are.
        outcomes: by name.
    """

    total: int
    on_scan: OnScan | None
    outcomes: dict[str, ScanOutcome] = field(default_factory=dict)

    def add(self, outcome: ScanOutcome) -> None:
        """Notes an outcome, and tells it."""
        self.outcomes[outcome.name] = outcome
        if outcome.status == "failed":
            logger.warning("%s: %s", outcome.source, outcome.reason)
        if self.on_scan is not None:
            self.on_scan(outcome, len(self.outcomes), self.total)


def _there(path: Path) -> Path | None:
    return path if path.exists() else None
