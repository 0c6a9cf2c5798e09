"""Many scans with one load of the weights: reading ahead, the network, and writing behind, in threads of their own."""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cps4_monai.cluster.address import SchedulerAddress
from cps4_monai.data.output_folder import FULL_DISK, check_output_dir
from cps4_monai.data.run_files import RunFiles
from cps4_monai.data.scan_labels import ScanScores
from cps4_monai.inference.bids import FILES, derivative_files
from cps4_monai.inference.bundle import open_bundle
from cps4_monai.inference.hand_on import HandOn
from cps4_monai.inference.outcome import ScanOutcome
from cps4_monai.inference.prepared import PreparedScan
from cps4_monai.inference.run_tables import TABLES, run_tables
from cps4_monai.inference.scan_views import REPORT, Spread, report_files, spread_over_threads
from cps4_monai.inference.scan_work import OnScan, ScanWork, Tally
from cps4_monai.inference.segment import Segmenter
from cps4_monai.inference.sources import Source, Sources, find_sources

logger = logging.getLogger(__name__)


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
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def lacking(self) -> list[ScanOutcome]:
        """Scans whose label map is there, and of which a copy that was asked for cannot be made."""
        return [outcome for outcome in self.outcomes if outcome.lacking]

    @property
    def segmented(self) -> list[ScanOutcome]:
        """Scans whose label map is there, made now or before."""
        return [outcome for outcome in self.outcomes if outcome.status in ("done", "kept")]


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
    scheduler: str | None = None,
) -> SegmentationRun:
    """Segments scans into a folder: label maps, JSONs, pictures, tables and a report; what `cps4 segment` does.

    A scan that cannot be used is recorded with its reason and the rest goes on; so is a copy for other programs that
    cannot be made of a scan, whose label map is written all the same. Called again, it does what is missing.

    Args:
        inputs: NIfTI files, folders (searched), BIDS data sets, DICOM files and folders, and datalist JSONs.
        output: folder, made where it is missing; subfolders of the inputs are mirrored.
        weights: see :func:`cps4_monai.inference.segment.segment`.
        device: likewise.
        batch_size: likewise.
        overwrite: make label maps of ours again; files that are not ours, and label maps that a person corrected,
            accepted or marked, are never replaced.
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
        scheduler: of a Dask cluster whose workers do the scans (extra ``cluster``): ``tcp://HOST:PORT`` of one that
            runs, ``local:N`` for N processes on this machine, ``slurm:FILE.yaml`` for jobs of Slurm.

    Raises:
        ValueError: settings or weights that cannot be used, an output folder that cannot be written, or
            ``dicom_seg`` or ``series`` without any DICOM series; a cluster that cannot be used, or was lost.
        MissingExtraError: what writes a copy that was asked for is not installed.
        ForeignFileError: a table or report that is not ours is in the output folder.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; expected 1 or more threads")
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    segmenter_options: dict[str, Any] = {"weights": weights, "device": device, "batch_size": batch_size, "tta": tta}
    segmenter_options |= {"raw": raw, "assume_spacing": assume_spacing}
    address = None if scheduler is None else SchedulerAddress.parse(scheduler)
    segmenter = Segmenter(**segmenter_options) if address is None else None
    bundle = open_bundle(weights) if segmenter is None else segmenter.bundle
    output = check_output_dir(output, min_free_gib=0.0)
    run_files = RunFiles(output)
    run_files.check((*TABLES, REPORT))
    sources = find_sources(given, output, series)
    data_sets = list(dict.fromkeys(source.root for source in sources.scans if source.bids))
    run_files.check(FILES if data_sets else ())
    hand_on = HandOn(dicom_seg, seg_nrrd)
    hand_on.check(sources)
    work_options = {"output": output, "overwrite": overwrite, "qc": qc, "hand_on": hand_on, "identify": identify}
    with _engine(segmenter, address, segmenter_options, work_options, jobs) as engine:
        outcomes = _outcomes(engine, sources, on_scan)
        tables = run_tables(outcomes, bundle.anatomy, output)
        run_files.write({**tables, **(derivative_files(output, data_sets) if data_sets else {})})
        run_settings = engine.run_settings(series)
        for files in report_files(outcomes, bundle.anatomy, settings=run_settings, views=qc, spread=engine.spread):
            run_files.write(files)
    return SegmentationRun(tuple(outcomes), output, output / REPORT)


def _outcomes(engine: Engine, sources: Sources, on_scan: OnScan | None) -> list[ScanOutcome]:
    """What becomes of all inputs: those that are no scans to segment first, files that are skipped last."""
    failed = [ScanOutcome(path, path.name, "failed", reason) for path, reason in sources.failures]
    for outcome in failed:
        logger.warning("%s: %s", outcome.source, outcome.reason)
    segmented = engine.run(sources.scans, Tally(len(sources.scans), on_scan))
    skipped = [ScanOutcome(path, path.name, "skipped", reason) for path, reason in sources.skipped]
    return [*failed, *segmented, *skipped]


@contextmanager
def _engine(
    segmenter: Segmenter | None,
    address: SchedulerAddress | None,
    segmenter_options: Mapping[str, Any],
    work_options: Mapping[str, Any],
    jobs: int,
) -> Iterator[Engine]:
    """What does the scans: the threads of this process, or the workers of a cluster."""
    if address is None:
        assert segmenter is not None
        yield _Batch(ScanWork(segmenter, **work_options, passed_on=_end_on_full_disk), jobs)
        return
    from cps4_monai.inference.on_cluster import cluster_engine

    with cluster_engine(address, segmenter_options, work_options) as engine:
        yield engine


def _end_on_full_disk(error: Exception) -> None:
    """No scan's fault: the others would be computed for nothing."""
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        raise ValueError(
            f"the disk is full, or a quota is reached ({error}); expected room for the results. Fix: free some, and "
            "start the same command again: scans that are done are kept"
        ) from error


class Engine(Protocol):
    """Whatever works a run's scans off."""

    def run(self, scans: Sequence[Source], tally: Tally) -> list[ScanOutcome]:
        """Outcomes in the order of the scans."""
        ...

    def run_settings(self, series: str | int | None) -> dict[str, str]:
        """What the report says of a run, in words."""
        ...

    @property
    def spread(self) -> Spread:
        """A map for what the report needs of each scan."""
        ...


class _Batch:
    """The line of work: readers ahead, the network here, writers behind; never more than ``jobs`` scans wait."""

    def __init__(self, work: ScanWork, jobs: int) -> None:
        self.work, self.jobs, self.run_settings = work, jobs, work.run_settings
        self.spread = spread_over_threads(jobs)

    def run(self, scans: Sequence[Source], tally: Tally) -> list[ScanOutcome]:
        """Outcomes in the order of the scans."""
        ahead: deque[tuple[Source, Future[PreparedScan | ScanOutcome]]] = deque()
        behind: deque[Future[ScanOutcome]] = deque()
        waiting, jobs = deque(scans), self.jobs
        readers, writers = (ThreadPoolExecutor(jobs, thread_name_prefix=name) for name in ("read", "write"))
        if self.work.qc:  # what draws is imported while the network runs
            writers.submit(importlib.import_module, "cps4_monai.report.pictures")
        try:
            while waiting or ahead:
                while waiting and len(ahead) < jobs:
                    source = waiting.popleft()
                    ahead.append((source, readers.submit(self.work.begin, source)))
                source, reading = ahead.popleft()
                begun = reading.result()
                del reading
                if isinstance(begun, ScanOutcome):
                    tally.add(begun)
                    continue
                self.work.segmenter.load()  # weights that do not fit are no scan's fault: they end the run
                while len(behind) >= jobs:
                    tally.add(behind.popleft().result())
                scores = self.work.scores(source, begun)
                if isinstance(scores, ScanScores):
                    behind.append(writers.submit(self.work.finish, source, begun, scores))
                else:
                    tally.add(scores)
                del begun, scores  # the scan's memory goes with its last step
            while behind:
                tally.add(behind.popleft().result())
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)
        return [tally.outcomes[source.name] for source in scans]
