"""From what the user names (files, folders, BIDS, DICOM, datalists) to scans, each with a place for its outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from cps4_monai.inference.bids import label_stem
from cps4_monai.inference.dicom import DicomSeries, FoundSeries, find_series, find_series_of_files, is_dicom_file
from cps4_monai.inference.folder_search import CONVERT, Search, search_folder
from cps4_monai.scan_names import is_nifti, mirrored_folder, stem_of

_SHOWN = 5  # files that an error names


@dataclass(frozen=True)
class Source:
    """One scan to segment.

    Attributes:
        path: a NIfTI file, or the folder of a DICOM series.
        kind: "nifti" or "dicom".
        root: the folder whose subfolders are mirrored.
        searched: found by a folder search, so that a label map among the scans is skipped.
        name: place of its outputs below the output folder, ``subfolder/stem``.
        series: of the folder, its headers read.
        suffix: what the name ends in where a folder gives several scans.
        bids: found in a BIDS data set, whose top is ``root``: its outputs have the names of a derivative.
    """

    path: Path
    kind: str
    root: Path
    searched: bool = False
    name: str = ""
    series: DicomSeries | None = None
    suffix: str = ""
    bids: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """What is the same for the same scan: its real path, and the series within."""
        return os.path.realpath(self.path), self.series.uid if self.series else ""


@dataclass
class Sources:
    """What was found.

    Attributes:
        scans: to segment, in order, each with a name of its own.
        skipped: files of a folder search that are no scans, with the reason.
        failures: inputs that cannot be used, with the reason.
    """

    scans: list[Source] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)


def find_sources(
    inputs: Iterable[str | Path], output: str | Path | None = None, series: str | int | None = None
) -> Sources:
    """Scans of any mix of NIfTI files, folders, BIDS data sets, DICOM files and folders, and datalist JSONs.

    Args:
        inputs: paths; a folder is searched with its subfolders, a datalist gives its test scans (all, if it has none),
            a DICOM file the series that it is part of.
        output: the output folder, left out of folder searches unless it is an input itself.
        series: of DICOM studies, which to take, see :func:`cps4_monai.inference.dicom.choose_series`.

    Returns:
        Scans in the order of the inputs, each once, DICOM files together; what was passed over; and inputs that cannot
        be used.

    Raises:
        ValueError: ``series`` has no letter and no digit, or none of the scans is DICOM.
    """
    sources = Sources()
    paths = [Path(given) for given in inputs]
    dicom_files = dict.fromkeys(path for path in paths if is_dicom_file(path))
    for path in paths:
        if path.is_dir():
            _add_folder(path, sources, None if output is None else Path(output), series)
        elif not path.exists():
            sources.failures.append(
                (
                    path,
                    "no such file or folder; expected a scan (.nii, .nii.gz), a folder or a "
                    "datalist JSON: correct the path",
                )
            )
        elif is_nifti(path):
            sources.scans.append(Source(path, "nifti", path.parent))
        elif path in dicom_files:
            if path == next(iter(dicom_files)):  # all together, as several may be of one series
                _add_dicom(find_series_of_files(list(dicom_files), series), None, sources)
        elif path.suffix.lower() == ".json":
            _add_datalist(path, sources)
        else:
            reason = "no scan; expected NIfTI (.nii, .nii.gz), DICOM, a folder, or a datalist JSON"
            sources.failures.append((path, f"{reason}. {CONVERT}"))
    if not sources.scans and not sources.failures:  # nothing but what was skipped: the user is told why
        reasons = "; ".join(reason for _, reason in sources.skipped)
        sources.failures += [(path, f"nothing to segment: {reasons}") for path in paths]
    if series is not None and sources.scans and all(source.kind != "dicom" for source in sources.scans):
        raise ValueError(
            f"series is {series!r}, and none of the {len(sources.scans)} scans is DICOM; expected a DICOM study, in "
            "which it chooses. Fix: leave --series out, or name the folder of the DICOM files"
        )
    sources.scans = _each_once(sources.scans)
    _name(sources)
    return sources


def _add_folder(path: Path, sources: Sources, output: Path | None, wanted: str | int | None) -> None:
    search: Search = search_folder(path, output)
    sources.scans += [Source(p, "nifti", path, searched=True, bids=search.bids) for p in search.scans]
    dicom = find_series(search.dicom, wanted)
    sources.skipped += search.skipped
    sources.failures += search.failures
    _add_dicom(dicom, path, sources)
    if wanted is not None and dicom.skipped and not dicom.taken:
        listed = "; ".join(reason for _, reason in dicom.skipped)
        sources.failures.append((path, f"no series {wanted!r}; found {listed}. Fix: name one of these"))
    if not search.scans and not search.dicom and not search.failures:
        listed = ", ".join(p.relative_to(path).as_posix() for p in search.not_read[:_SHOWN])
        more = f" and {len(search.not_read) - _SHOWN} more" if len(search.not_read) > _SHOWN else ""
        other = f"; images in other formats: {listed}{more}. Fix: convert them to NIfTI" if listed else ""
        sources.failures.append(
            (
                path,
                "no scan in this folder; expected .nii or .nii.gz files or DICOM series "
                f"({len(search.skipped)} files were skipped){other}",
            )
        )


def _add_dicom(dicom: FoundSeries, searched: Path | None, sources: Sources) -> None:
    for series, suffix in dicom.taken:
        root = series.folder.parent if searched in (None, series.folder) else searched
        sources.scans.append(Source(series.folder, "dicom", root, series=series, suffix=suffix))
    sources.skipped += dicom.skipped
    sources.failures += dicom.failures


def _add_datalist(path: Path, sources: Sources) -> None:
    from cps4_monai.data.datalist import load_datalist

    try:
        entries = load_datalist(path, check_files=False).to_segment()
    except ValueError as error:
        sources.failures.append((path, str(error)))
        return
    if not entries:
        sources.failures.append((path, "no scan in this datalist; add entries to 'test'"))
    sources.scans += [Source(entry.image, "nifti", path.parent) for entry in entries]


def _each_once(scans: Sequence[Source]) -> list[Source]:
    by_file: dict[tuple[str, str], Source] = {}
    for scan in scans:
        by_file.setdefault(scan.identity, scan)
    return list(by_file.values())


def _name(sources: Sources) -> None:
    """Gives each scan its name: subfolders mirrored, and more of them where two inputs would share a file."""
    by_name: dict[str, list[Source]] = {}
    for scan in sources.scans:
        by_name.setdefault(_mirrored(scan, scan.root).casefold(), []).append(scan)
    shared = {scan.root for scans in by_name.values() if len({s.root for s in scans}) > 1 for scan in scans}
    common = Path(os.path.commonpath([os.path.abspath(root) for root in shared])) if shared else None
    named: dict[str, Source] = {}
    for scan in sources.scans:
        root = common if common is not None and scan.root in shared else scan.root
        name = _mirrored(scan, root)
        other = named.setdefault(name.casefold(), replace(scan, name=name))
        if other.identity != scan.identity:
            reason = f"its outputs would have the names of those of {other.path}; expected one file for each"
            sources.failures.append((scan.path, f"{reason}: rename one, or use another output folder"))
    sources.scans = list(named.values())


def _mirrored(scan: Source, root: Path) -> str:
    stem = stem_of(scan.path) if scan.kind == "nifti" else Path(os.path.abspath(scan.path)).name
    stem = label_stem(stem) if scan.bids else stem
    return str(PurePosixPath(*mirrored_folder(scan.path, root).parts, f"{stem}{scan.suffix}"))
