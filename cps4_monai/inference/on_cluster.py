"""Scans on the workers of a Dask cluster: each opens the weights once, and writes where one process would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cps4_monai.cluster.address import ClusterError, SchedulerAddress
from cps4_monai.cluster.session import Session
from cps4_monai.cluster.worker import GivenUp, MachineError, RunInWorker
from cps4_monai.data.output_folder import FULL_DISK
from cps4_monai.inference.outcome import ScanOutcome, StoredRecord
from cps4_monai.inference.scan_files import ScanFiles
from cps4_monai.inference.scan_work import ScanWork, Tally
from cps4_monai.inference.segment import Segmenter
from cps4_monai.inference.sources import Source

T = TypeVar("T")
R = TypeVar("R")


class SegmentInWorker(RunInWorker):
    """The weights in a worker, opened once, and the work on a scan with them.

    Args:
        segmenter_options: arguments of :class:`Segmenter`.
        work_options: the other arguments of :class:`ScanWork`.
        folder: see :class:`RunInWorker`.
        own_workers: likewise.
    """

    def __init__(
        self, segmenter_options: Mapping[str, Any], work_options: Mapping[str, Any], folder: Path, own_workers: bool
    ) -> None:
        super().__init__(folder, own_workers=own_workers)
        self.segmenter_options, self.work_options = dict(segmenter_options), dict(work_options)

    def begin(self) -> None:
        """Opens the weights.

        Raises:
            ClusterError: the worker does not see the output folder.
            ValueError: settings or weights that cannot be used.
        """
        output = self.work_options["output"]
        if not output.is_dir():
            raise ClusterError(
                f"worker {self.address}: found no folder {output}; expected a file system that all workers share. "
                "Fix: choose an output folder on one"
            )
        segmenter = Segmenter(**self.segmenter_options)
        network = segmenter.load()
        for module in (network, *network.children()):  # a look before each pass, of several views as well
            module.register_forward_pre_hook(lambda *_: self.go_on())
        self.work = ScanWork(segmenter, **self.work_options, go_on=self.go_on, passed_on=self._pass_on)

    def _pass_on(self, error: Exception) -> None:
        if isinstance(error, GivenUp):
            raise error
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise MachineError(self.address, str(error)) from error


@contextmanager
def cluster_engine(
    address: SchedulerAddress, segmenter_options: Mapping[str, Any], work_options: Mapping[str, Any]
) -> Iterator[ClusterEngine]:
    """The workers of a cluster, ready for scans.

    Args:
        address: of the scheduler.
        segmenter_options: see :class:`SegmentInWorker`.
        work_options: likewise.

    Raises:
        ClusterError: the cluster cannot be used.
        ValueError: settings or weights that cannot be used.
    """
    tenant = SegmentInWorker(segmenter_options, work_options, Path.cwd(), address.kind == "local")
    with Session(address, tenant, "cps4-segment") as session:
        yield ClusterEngine(session, work_options["output"])


class ClusterEngine:
    """Works scans off on the workers of a session, see :class:`cps4_monai.inference.batch.Engine`."""

    def __init__(self, session: Session, output: Path) -> None:
        self.session, self.output = session, output

    def run(self, scans: Sequence[Source], tally: Tally) -> list[ScanOutcome]:
        """Outcomes in the order of the scans; the records of results stay on the disk."""
        for answer in self.session.complete(_segment, scans):
            tally.add(answer.result or self._died(answer.item, answer.fault))
        return [tally.outcomes[source.name] for source in scans]

    def run_settings(self, series: str | int | None) -> dict[str, str]:
        """What the report says of a run, as a worker tells it."""
        return next(self.session.spread(_told, [series]))

    def spread(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Answers in the order of the items."""
        return self.session.spread(_call, ((function, item) for item in items))

    def _died(self, source: Source, fault: str) -> ScanOutcome:
        return ScanOutcome(source.path, source.name, "failed", f"{source.path}: {fault}")


def _segment(tenant: SegmentInWorker, source: Source) -> ScanOutcome:
    outcome = tenant.work(source)
    stored = StoredRecord(ScanFiles.at(tenant.work.output, source.name).sidecar)
    if not outcome.record or "Structures" not in stored:  # nothing, or measured here, because the sidecar does not say
        return outcome
    return replace(outcome, record=stored)


def _told(tenant: SegmentInWorker, series: str | int | None) -> dict[str, str]:
    return tenant.work.run_settings(series)


def _call(tenant: SegmentInWorker, call: tuple[Callable[[T], R], T]) -> R:
    function, item = call
    return function(item)
