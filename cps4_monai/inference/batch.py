"""Many scans with one load of the weights: reading ahead, the network, and writing behind, in threads of their own."""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cps4_monai.data.output_folder import check_output_dir
from cps4_monai.data.volume import read_volume
from cps4_monai.inference.bids import FILES, derivative_files
from cps4_monai.inference.folder_search import looks_like_label_map
from cps4_monai.inference.hand_on import HandOn
from cps4_monai.inference.outcome import ScanOutcome, reason_of
from cps4_monai.inference.prepared import PreparedScan, load_scan, source_key
from cps4_monai.inference.run_files import RunFiles
from cps4_monai.inference.run_tables import TABLES, run_tables
from cps4_monai.inference.scan_files import ScanFiles, draw_again, finished, write_segmentation
from cps4_monai.inference.scan_views import REPORT, report_files
from cps4_monai.inference.segment import Segmenter, device_name
from cps4_monai.inference.settings_in_words import settings_in_words
from cps4_monai.inference.sources import Source, find_sources

logger = logging.getLogger(__name__)
OnScan = Callable[[ScanOutcome, int, int], None]


@dataclass(frozen=True)
class SegmentationRun:
    """What a run made.

    Attributes:
        outcomes: of every input, in their order; skipped files last.
        output: the output folder.
        report: its page.
    """

    outcomes: tuple[ScanOutcome, ...]
    output: Path
    report: Path

    @property
    def failures(self) -> list[ScanOutcome]:
        """Inputs that could not be segmented, each with its reason."""
        return [one for one in self.outcomes if one.status == "failed"]

    @property
    def segmented(self) -> list[ScanOutcome]:
        """Scans whose label map is there, made now or before."""
        return [one for one in self.outcomes if one.status in ("done", "kept")]


def segment_scans(
    inputs: str | Path | Iterable[str | Path],
    output: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 8,
    overwrite: bool = False,
    qc: bool = True,
    tta: bool = False,
    jobs: int = 2,
    raw: bool = False,
    assume_spacing: Sequence[float] | float | None = None,
    series: str | int | None = None,
    dicom_seg: bool = False,
    seg_nrrd: bool = False,
    identify: bool = False,
    on_scan: OnScan | None = None,
) -> SegmentationRun:
    """Segments scans into a folder: label maps, JSONs, pictures, tables and a report; what `cps4 segment` does.

    A scan that cannot be used is recorded with its reason and the rest goes on. Called again, it does what is missing.

    Args:
        inputs: NIfTI files, folders (searched), BIDS data sets, DICOM files and folders, and datalist JSONs.
        output: folder, made where it is missing; subfolders of the inputs are mirrored.
        weights: see :func:`cps4_monai.inference.segment.segment`.
        device: likewise.
        batch_size: likewise.
        overwrite: make label maps of ours again; files that are not ours are never replaced.
        qc: draw a picture of each scan, and put the scans into the report's viewer.
        tta: see :func:`cps4_monai.inference.segment.segment`.
        jobs: scans read ahead, and scans written behind, at a time; each holds its volume in memory.
        raw: see :func:`cps4_monai.inference.segment.segment`.
        assume_spacing: likewise.
        series: of DICOM studies: number, UID or a part of the description; None: the best sagittal T2-weighted one.
        dicom_seg: write a DICOM Segmentation object of each DICOM series, ``<name>_seg.dcm`` (extra ``dicom``).
        seg_nrrd: write a segmentation for 3D Slicer of each scan, ``<name>.seg.nrrd`` (extra ``slicer``).
        identify: PatientID and StudyInstanceUID of DICOM series stand in the JSONs as they are, not as hashes.
        on_scan: called after each scan with its outcome, how many are done and how many there are.

    Raises:
        ValueError: settings or weights that cannot be used, an output folder that cannot be written, or
            ``dicom_seg`` without any DICOM series.
        MissingExtraError: what writes a copy that was asked for is not installed.
        ForeignFileError: a table or report that is not ours is in the output folder.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; expected 1 or more threads")
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    segmenter = Segmenter(
        weights, device=device, batch_size=batch_size, tta=tta, raw=raw, assume_spacing=assume_spacing
    )
    output = check_output_dir(output, min_free_gib=0.0)
    run_files = RunFiles(output)
    run_files.check((*TABLES, REPORT))
    sources = find_sources(given, output, series)
    data_sets = list(dict.fromkeys(one.root for one in sources.scans if one.bids))
    run_files.check(FILES if data_sets else ())
    hand_on = HandOn(dicom_seg, seg_nrrd)
    hand_on.check(sources)
    outcomes = [ScanOutcome(path, path.name, "failed", reason) for path, reason in sources.failures]
    for outcome in outcomes:
        logger.warning("%s: %s", outcome.source, outcome.reason)
    batch = _Batch(segmenter, output, overwrite, qc, len(sources.scans), on_scan, hand_on, identify)
    outcomes += batch.run(sources.scans, jobs)
    outcomes += [ScanOutcome(path, path.name, "skipped", reason) for path, reason in sources.skipped]
    tables = run_tables(outcomes, segmenter.bundle.anatomy, output)
    run_files.write({**tables, **(derivative_files(output, data_sets) if data_sets else {})})
    told = _settings(segmenter, series)
    for files in report_files(outcomes, segmenter.bundle.anatomy, settings=told, views=qc, jobs=jobs):
        run_files.write(files)
    return SegmentationRun(tuple(outcomes), output, output / REPORT)


def _settings(segmenter: Segmenter, series: str | int | None) -> dict[str, str]:
    """What the report says of a run, in words."""
    machine = f"torch {torch.__version__} on {device_name(segmenter.device)}"
    told = settings_in_words(segmenter.settings, segmenter.weights_record, machine)
    return told if series is None else {**told, "Series asked for": str(series)}


class _Batch:
    """The line of work: readers ahead, the network here, writers behind; never more than ``jobs`` scans wait."""

    def __init__(
        self,
        segmenter: Segmenter,
        output: Path,
        overwrite: bool,
        qc: bool,
        total: int,
        on_scan: OnScan | None,
        hand_on: HandOn,
        identify: bool,
    ) -> None:
        self.hand_on, self.identify = hand_on, identify
        self.segmenter, self.output, self.overwrite, self.qc = segmenter, output, overwrite, qc
        self.total, self.done, self.on_scan = total, 0, on_scan
        self.outcomes: dict[str, ScanOutcome] = {}

    def run(self, scans: Sequence[Source], jobs: int) -> list[ScanOutcome]:
        """Outcomes in the order of the scans."""
        ahead: deque[tuple[Source, Future[PreparedScan | ScanOutcome]]] = deque()
        behind: deque[Future[ScanOutcome]] = deque()
        waiting = deque(scans)
        readers, writers = (ThreadPoolExecutor(jobs, thread_name_prefix=name) for name in ("read", "write"))
        if self.qc:  # what draws is imported while the network runs
            writers.submit(importlib.import_module, "cps4_monai.report.pictures")
        try:
            while waiting or ahead:
                while waiting and len(ahead) < jobs:
                    source = waiting.popleft()
                    ahead.append((source, readers.submit(self._begin, source)))
                source, reading = ahead.popleft()
                begun = reading.result()
                del reading
                if isinstance(begun, ScanOutcome):
                    self._report(begun)
                    continue
                self.segmenter.load()  # weights that do not fit are no scan's fault: they end the run
                while len(behind) >= jobs:
                    self._report(behind.popleft().result())
                behind.append(self._segment(source, begun, writers))
                del begun  # the scan's memory goes with its last step
            while behind:
                self._report(behind.popleft().result())
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)
        return [self.outcomes[source.name] for source in scans]

    def _begin(self, source: Source) -> PreparedScan | ScanOutcome:
        """Reads a scan, or says why there is nothing to do."""
        files = ScanFiles.at(self.output, source.name)
        try:
            key = source_key(source.path, source.series) if files.label.exists() and not self.overwrite else ""
            there = finished(files, key, self.segmenter.settings, overwrite=self.overwrite)
            if there is not None:
                if self.qc and not files.picture.exists():
                    self._draw(source, files)
                self._copy_again(source, files)
                picture = _there(files.picture)
                return ScanOutcome(source.path, source.name, "kept", there[1], files.label, picture, there[0])
            started = time.perf_counter()
            volume = load_scan(source.path, self.segmenter.assume_spacing, source.series)
            seconds = time.perf_counter() - started
            if source.searched and source.kind == "nifti" and looks_like_label_map(volume.array):
                return ScanOutcome(source.path, source.name, "skipped", "whole numbers, few of them: a label map")
            if self.identify and source.series is not None:
                volume = replace(volume, provenance={"Series": source.series.identity | source.series.identified})
            scan = self.segmenter.prepare(volume, keep_grey=self.qc)
            scan.seconds["read"] = seconds
            return scan
        except Exception as error:
            return _failed(source, error)

    def _draw(self, source: Source, files: ScanFiles) -> None:
        """The picture of a label map that is there without one."""
        scan = self.segmenter.prepare(load_scan(source.path, self.segmenter.assume_spacing, source.series))
        labels = read_volume(files.label, is_label=True, assume_spacing=scan.grid.spacing_mm).array
        assert scan.grey is not None
        draw_again(files, scan.grey, labels, scan.affine, self.segmenter.bundle.anatomy)

    def _copy_again(self, source: Source, files: ScanFiles) -> None:
        """Copies for other programs of a label map that is there without them."""
        if all(path.exists() for path in self.hand_on.files(source, files)):
            return
        labels = read_volume(files.label, is_label=True)
        self.hand_on.write(source, files, labels.array, labels.affine, self.segmenter.bundle.anatomy, files.record)

    def _segment(self, source: Source, scan: PreparedScan, writers: ThreadPoolExecutor) -> Future[ScanOutcome]:
        """Runs the network now and the rest in a writer."""
        try:
            scores = self.segmenter.scores(scan)
        except Exception as error:
            failed: Future[ScanOutcome] = Future()
            failed.set_result(_failed(source, error))
            return failed

        def finish() -> ScanOutcome:
            files = ScanFiles.at(self.output, source.name)
            try:
                result = self.segmenter.finish(scan, scores)
                self.hand_on.write(source, files, result.labels, result.affine, result.anatomy, result.record)
                write_segmentation(result, files, overwrite=self.overwrite, qc=self.qc)
                return ScanOutcome(
                    source.path, source.name, "done", "", files.label, _there(files.picture), result.record
                )
            except Exception as error:
                return _failed(source, error)

        return writers.submit(finish)

    def _report(self, outcome: ScanOutcome) -> None:
        self.outcomes[outcome.name] = outcome
        self.done += 1
        if outcome.status == "failed":
            logger.warning("%s: %s", outcome.source, outcome.reason)
        if self.on_scan is not None:
            self.on_scan(outcome, self.done, self.total)


def _failed(source: Source, error: Exception) -> ScanOutcome:
    """One bad scan never stops the others, whatever is wrong with it."""
    logger.debug("%s failed", source.path, exc_info=error)
    return ScanOutcome(source.path, source.name, "failed", reason_of(error))


def _there(path: Path) -> Path | None:
    return path if path.exists() else None
