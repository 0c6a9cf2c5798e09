"""Segment one scan, from Python: `segment("scan.nii.gz")`; and a `Segmenter` that loads its weights once for many."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from cps4_monai import __version__
from cps4_monai.data.geometry import assumed_spacing
from cps4_monai.data.output_folder import check_output_dir
from cps4_monai.data.scan_labels import ScanScores
from cps4_monai.device import select_device
from cps4_monai.inference.bundle import Bundle, open_bundle
from cps4_monai.inference.given_scan import GivenScan, given_volume
from cps4_monai.inference.measured import measure
from cps4_monai.inference.network_pass import run_network
from cps4_monai.inference.prepared import PreparedScan, prepare_scan, read_and_prepare
from cps4_monai.inference.restore import restore_labels
from cps4_monai.inference.segmentation import Segmentation, plain
from cps4_monai.inference.view_averaging import ViewAveraging
from cps4_monai.levels import LevelThresholds
from cps4_monai.levels.flag_calibration import FlagCalibration
from cps4_monai.precision import Precision

logger = logging.getLogger(__name__)
PACKAGES = ("torch", "monai", "numpy", "nibabel")  # their versions stand in every result


def segment(
    scan: GivenScan,
    output: str | Path | None = None,
    *,
    affine: Any = None,
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 8,
    overwrite: bool = False,
    qc: bool = True,
    tta: bool = False,
    raw: bool = False,
    assume_spacing: Sequence[float] | float | None = None,
    series: str | int | None = None,
) -> Segmentation:
    """Segments one spine MRI.

    >>> from cps4_monai import segment
    >>> result = segment("scan.nii.gz")            # doctest: +SKIP
    >>> result.labels.shape, result.volumes_ml     # doctest: +SKIP
    >>> result.save("out")                         # doctest: +SKIP

    For several scans use :class:`Segmenter`, which loads the weights once, or
    :func:`cps4_monai.inference.batch.segment_scans`, which writes files, tables and a report as `cps4 segment` does.

    Args:
        scan: a NIfTI file, a folder with a DICOM series or a file of one, a nibabel image, a volume read before, a
            MetaTensor, or an array (X, Y, Z) with ``affine``.
        output: folder for the label map, its JSON and its picture; None writes nothing.
        affine: 4 x 4, voxel indices of an array to RAS+ mm.
        weights: folder or zip of a bundle; None: the one that comes with this package.
        device: "auto", "cpu", "cuda:N" or "mps".
        batch_size: slices at a time.
        overwrite: replace files of ours in ``output``.
        qc: keep what the picture needs and, with ``output``, write it.
        tta: average over five views of each slice; five times slower.
        raw: the plain argmax, levels not decoded.
        assume_spacing: spacing in mm along X, Y and Z (or one number), for headers without a usable one.
        series: of a DICOM folder: number, UID or a part of the description; None: its best sagittal T2-weighted one.

    Raises:
        InvalidVolumeError: the scan cannot be used; the message says why and how to fix it.
        ValueError: weights, settings or an output folder that cannot be used; the last before anything is computed.
        ForeignFileError: an output file is there already.
    """
    if output is not None:
        check_output_dir(output, min_free_gib=0.0)
    segmenter = Segmenter(
        weights, device=device, batch_size=batch_size, tta=tta, raw=raw, assume_spacing=assume_spacing
    )
    result = segmenter(scan, affine=affine, qc=qc, series=series)
    if output is not None:
        result.save(output, overwrite=overwrite, qc=qc)
    return result


class Segmenter:
    """Segments scans with weights that are loaded once, when the first scan needs them.

    Its three steps may run in different threads, one scan behind the other: :meth:`prepare`, :meth:`scores` (the
    network, one thread at a time) and :meth:`finish`.

    Args:
        weights: see :func:`segment`.
        device: see :func:`segment`.
        batch_size: see :func:`segment`.
        tta: see :func:`segment`.
        raw: see :func:`segment`.
        assume_spacing: see :func:`segment`.
        thresholds: of the level logic; default: those of the weights' plan.

    Attributes:
        precision: in which torch computes, as `amp` and `amp_dtype` of the bundle's inference.json say.

    Raises:
        ValueError: no usable bundle, no such device, a batch size below 1, or an assumed spacing that is not one or
            three positive numbers.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        device: str = "auto",
        batch_size: int = 8,
        tta: bool = False,
        raw: bool = False,
        assume_spacing: Sequence[float] | float | None = None,
        thresholds: LevelThresholds | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more slices")
        spacing = _plain_spacing(assume_spacing)
        self.device = select_device(device)
        self.bundle: Bundle = open_bundle(weights)
        amp, dtype = self.bundle.mixed_precision
        self.precision = Precision(self.device, amp, dtype)
        self.batch_size, self.tta, self.raw, self.assume_spacing = batch_size, tta, raw, spacing
        self.thresholds = thresholds or LevelThresholds.from_dict(self.bundle.plan.decoding)
        self.calibration = FlagCalibration.from_dict(self.bundle.plan.flags)
        self._lock = threading.Lock()

    @cached_property
    def network(self) -> torch.nn.Module:
        """The network on its device, with test-time augmentation if that was asked for."""
        started = time.perf_counter()
        network = self.bundle.build_network(self.device)
        logger.info("loaded %s in %.1f s", self.bundle.path, time.perf_counter() - started)
        return ViewAveraging(network).eval() if self.tta else network

    @property
    def settings(self) -> dict[str, Any]:
        """What, with the weights, decides the labels: results with the same are not made again."""
        return plain(
            {
                "WeightsSha256": self.bundle.sha256,
                "Raw": self.raw,
                "TestTimeAugmentation": self.tta,
                "AssumeSpacing": self.assume_spacing,
                "LevelThresholds": self.thresholds.to_dict(),
                **({"FlagCalibration": self.calibration.to_dict()} if self.bundle.plan.flags else {}),
                **({} if self.precision.dtype is None else {"Precision": self.precision.name}),
            }
        )

    @property
    def weights_record(self) -> dict[str, str]:
        """Name and version of the bundle, SHA-256 of its weights."""
        return {"Name": self.bundle.path.name, "Version": self.bundle.version, "Sha256": self.bundle.sha256}

    def __call__(
        self, scan: GivenScan, *, affine: Any = None, qc: bool = True, series: str | int | None = None
    ) -> Segmentation:
        """Segments one scan, see :func:`segment`."""
        prepared = self.prepare(scan, affine=affine, keep_grey=qc, series=series)
        return self.finish(prepared, self.scores(prepared))

    def prepare(
        self, scan: GivenScan, *, affine: Any = None, keep_grey: bool = True, series: str | int | None = None
    ) -> PreparedScan:
        """Reads and checks a scan and cuts it into the network's slices.

        Raises:
            InvalidVolumeError: the scan cannot be used.
            TypeError: it is nothing that a scan can be, or an array without affine.
        """
        bundle = self.bundle
        scan = given_volume(scan, affine, self.assume_spacing)
        if not isinstance(scan, Path):
            return prepare_scan(scan, bundle.in_plane, bundle.percentiles, keep_grey=keep_grey)
        return read_and_prepare(
            scan,
            bundle.in_plane,
            bundle.percentiles,
            assume_spacing=self.assume_spacing,
            keep_grey=keep_grey,
            series=series,
        )

    def load(self) -> torch.nn.Module:
        """The network, loaded now if it was not before.

        Raises:
            ValueError: the weights do not fit the bundle's network, or cannot be read.
        """
        with self._lock:
            return self.network

    def scores(self, scan: PreparedScan) -> ScanScores:
        """The network's answer; the time it takes is added to the scan's."""
        network = self.load()
        with self._lock, self.precision.autocast():
            started = time.perf_counter()
            scores = run_network(
                network,
                scan.slices,
                device=self.device,
                batch_size=self.batch_size,
                unannotated=self.bundle.unannotated,
            )
        if scores.num_classes != self.bundle.anatomy.num_classes:
            raise ValueError(
                f"{self.bundle.path}: the network has {scores.num_classes} classes, its anatomy "
                f"{self.bundle.anatomy.num_classes}; export the bundle again"
            )
        scan.seconds["network"] = time.perf_counter() - started
        return scores

    def finish(self, scan: PreparedScan, scores: ScanScores) -> Segmentation:
        """Levels, labels on the scan's grid, statistics and flags."""
        bundle, grid = self.bundle, scan.grid
        restored = restore_labels(
            scores, bundle.in_plane, grid, bundle.anatomy, bundle.unannotated, raw=self.raw, thresholds=self.thresholds
        )
        started = time.perf_counter()
        measured = measure(
            restored,
            scores.labels,
            scan.slices.numpy(),
            grid,
            scan.affine,
            bundle.anatomy,
            bundle.unannotated,
            self.thresholds,
            self.calibration,
        )
        scan.seconds.update(restored.seconds)
        scan.seconds["statistics"] = time.perf_counter() - started
        levels = None if restored.levels is None else plain(restored.levels.to_dict())
        told: dict[str, Any] = {
            "Warnings": list(scan.warnings),
            "Flags": [flag.to_dict() for flag in measured.flags],
            "Levels": levels,
            "Traits": measured.traits,
            "View": restored.view,
            "Structures": [structure.to_dict() for structure in measured.structures],
        }
        return Segmentation(
            path=scan.path,
            labels=grid.from_slices(restored.slices),
            affine=scan.affine,
            header=scan.header,
            anatomy=bundle.anatomy,
            structures=measured.structures,
            flags=measured.flags,
            levels=levels,
            warnings=scan.warnings,
            record=plain({**self._provenance(scan), **told}),
            grey=scan.grey,
        )

    def _provenance(self, scan: PreparedScan) -> Mapping[str, Any]:
        return {
            # A whole path, so that `cps4 report` finds the scan from any folder.
            "Sources": [os.path.abspath(scan.path) if scan.path.exists() else str(scan.path)],
            "SourceSha256": scan.content_key,
            **scan.provenance,
            "Weights": self.weights_record,
            "Settings": self.settings,
            "Software": dict(_software()),
            "Device": device_name(self.device),
            "Seconds": scan.seconds,
        }


def _plain_spacing(spacing: Sequence[float] | float | None) -> list[float] | None:
    """The assumed spacing as numbers of Python, which JSON takes; one number where all axes have the same.

    Raises:
        ValueError: not one or three positive numbers.
    """
    along_axes = assumed_spacing(spacing)
    if along_axes is None:
        return None
    numbers: list[float] = along_axes.tolist()
    return numbers[:1] if len(set(numbers)) == 1 else numbers


@cache  # read from files of the packages
def _software() -> Mapping[str, str]:
    """Versions of this package and of what it computes with, as results tell them."""
    return {"cps4_monai": __version__, **{name: importlib.metadata.version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """Device with the GPU's name, as in ``cuda:0 (NVIDIA ...)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
