"""The series of a folder: which files belong to each, what it shows, and why one is no scan."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.inference.dicom.headers import DicomHeader, pydicom_module, read_header
from cps4_monai.inference.dicom.images import DicomImage
from cps4_monai.inference.dicom.weighting import is_localizer, plane_of, weighting
from cps4_monai.scan_names import is_nifti

EXPECTED = "one DICOM series of one MRI volume"
# Endings that say DICOM, so that a file which cannot be parsed is missed; numbers are parts of a UID.
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima", ".dc3", "")
_MARK = b"DICM"
_FIRST_TAGS = {bytes((group, 0, element, 0)) for group in (2, 8) for element in (0, 1, 5, 8, 0x12, 0x16, 0x18)}


@dataclass(frozen=True)
class DicomSeries:
    """One series of a folder.

    Attributes:
        folder: that holds its files.
        uid: SeriesInstanceUID.
        study: patient and study, compared only.
        number: SeriesNumber, if it has one.
        description: series description, or the protocol's name.
        images: its images, in the order of the files' names.
        plane: "sagittal", "coronal" or "axial"; empty where it is unknown.
        weighting: in words.
        derived: made from other images, by ImageType.
        no_image: it holds no MR image, with the reason; empty if it does.
        localizer: it is a localizer.
        unreadable: damaged files of this series, or of the folder where they do not say of which; with reasons.
        notes: what a user should know of how it was chosen and read.
    """

    folder: Path
    uid: str
    study: tuple[str, str]
    number: int | None
    description: str
    images: tuple[DicomImage, ...]
    plane: str = ""
    weighting: str = ""
    derived: bool = False
    no_image: str = ""
    localizer: bool = False
    unreadable: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        number = "series without number" if self.number is None else f"series {self.number}"
        return f"{number} {self.description or 'without description'!r} ({len(self.images)} images)"

    @property
    def passed_over(self) -> str:
        """Why it is no scan to segment; empty if it is one."""
        return self.no_image or ("a localizer" if self.localizer else "")

    @property
    def identity(self) -> dict[str, str | int | None]:
        """What tells it from the others of its folder, for the record of a result; patient and study as hashes."""
        hashes = {key: hashlib.sha256(value.encode()).hexdigest() if value else None for key, value in self._whose()}
        return {
            "Number": self.number,
            "Description": self.description,
            "InstanceUID": self.uid,
            **{f"{key}Sha256": value for key, value in hashes.items()},
        }

    @property
    def identified(self) -> dict[str, str | int | None]:
        """Patient and study as they are in the files, for records that are asked to say whose scan it is."""
        return dict(self._whose())

    def _whose(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return ("PatientID", self.study[0]), ("StudyInstanceUID", self.study[1])


def list_series(folder: str | Path) -> list[DicomSeries]:
    """All series of a folder, subfolders left out, by number; headers only are read.

    The folder that was listed last is not read again as long as its files are the same: reports, pictures and copies
    ask for one series of it at a time.

    Raises:
        ImportError: pydicom is not installed.
        InvalidVolumeError: no DICOM file in the folder, or none that can be parsed.
    """
    folder = Path(folder)
    pydicom_module()
    names, state = _files_of(folder)
    return list(_list_series(folder, names, state))


@lru_cache(maxsize=1)
def _list_series(folder: Path, names: tuple[str, ...], state: tuple[tuple[int, int], ...]) -> list[DicomSeries]:
    """Series of these files, which are the same as long as their sizes and times (``state``) are."""
    headers = [header for name in names if (header := _header_of(folder / name)) is not None]
    damaged = [(h.path, h.unreadable) for h in headers if h.unreadable]
    by_uid: dict[str, list[DicomHeader]] = {}
    for header in headers:
        if header.series:
            by_uid.setdefault(header.series, []).append(header)
    if not by_uid:
        if damaged:
            raise unreadable_files(folder, damaged)
        raise InvalidVolumeError(folder, "no DICOM series", EXPECTED, "name the folder with the files of the series")
    orphans = [(h.path, h.unreadable) for h in headers if h.unreadable and not h.series]
    series = [_series(folder, uid, members, orphans) for uid, members in by_uid.items()]
    return sorted(series, key=lambda candidate: (candidate.number is None, candidate.number or 0, candidate.uid))


def series_of_file(path: str | Path, series: Sequence[DicomSeries] | None = None) -> DicomSeries:
    """The series of a file's folder that the file is part of.

    Args:
        path: a DICOM file.
        series: those of its folder, if they were listed before.

    Raises:
        ImportError: pydicom is not installed.
        InvalidVolumeError: the file cannot be parsed, or names no series.
    """
    path = Path(path)
    series = list_series(path.parent) if series is None else series
    header = _header_of(path)
    if header is not None and header.unreadable:
        raise unreadable_files(path.parent, [(path, header.unreadable)])
    for candidate in series:
        if header is not None and candidate.uid == header.series:
            return candidate
    what = "no DICOM file" if header is None else header.no_image
    raise InvalidVolumeError(path, what, EXPECTED, "name a file of the series, or the folder that holds it")


def unreadable_files(folder: Path, damaged: Sequence[tuple[Path, str]]) -> InvalidVolumeError:
    """The error that names each file that cannot be read, with the reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in sorted(damaged):
        by_reason.setdefault(reason, []).append(path.name)
    told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
    count = "1 file" if len(damaged) == 1 else f"{len(damaged)} files"
    return InvalidVolumeError(
        folder,
        f"{count} that cannot be read ({told})",
        "DICOM files that are whole",
        "export or copy the series again; files that are no part of it can be moved away",
    )


def is_dicom_file(path: str | Path) -> bool:
    """Whether a path is a file that is DICOM by its first bytes, and no NIfTI by its name."""
    path = Path(path)
    return path.is_file() and not is_nifti(path) and holds_dicom(path)


def holds_dicom(path: str | Path) -> bool:
    """Whether a file begins as DICOM does: the mark behind its preamble, or its first tag."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == _MARK or start[:4] in _FIRST_TAGS


def _files_of(folder: Path) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names of the files that may be DICOM, sorted, with size and time of change of each.

    Raises:
        InvalidVolumeError: the folder cannot be read.
    """
    try:
        entries = sorted(
            (e for e in os.scandir(folder) if e.is_file() or _is_broken_link(e)), key=lambda entry: entry.name
        )
    except OSError as error:
        raise InvalidVolumeError(
            folder, f"a folder that cannot be read ({error})", EXPECTED, "correct the path or its permissions"
        ) from error
    entries = [e for e in entries if not e.name.startswith(".") and e.name.upper() != "DICOMDIR"]
    return tuple(entry.name for entry in entries), tuple(map(_state_of, entries))


def _state_of(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Size and time of change; zeros of what is not there any more or cannot be asked, which reading it will tell."""
    try:
        state = entry.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Whether an entry has a DICOM file's name and leads nowhere, as a link of DataLad before ``datalad get``."""
    return entry.is_symlink() and not os.path.exists(entry.path) and _should_be_dicom(entry.name, b"")


def _header_of(path: Path) -> DicomHeader | None:
    """Header of a file; None where neither its first bytes nor its name say DICOM."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError as error:
        return DicomHeader(path, unreadable=f"not readable ({error.strerror})")
    marked = start[128:] == _MARK
    if marked or start[:4] in _FIRST_TAGS:
        return read_header(path, force=not marked)
    if _should_be_dicom(path.name, start):
        return DicomHeader(path, unreadable="empty" if not start else "no DICOM file, by its first bytes")
    return None


def _should_be_dicom(name: str, start: bytes) -> bool:
    """Whether a file without the mark has the name of a DICOM file; texts without ending (README) have not."""
    ending = os.path.splitext(name)[1].lower()
    if ending == "" and start and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in start):
        return False
    return ending in _DICOM_ENDINGS or ending[1:].isdigit()


def _series(folder: Path, uid: str, members: Sequence[DicomHeader], orphans: Sequence[tuple[Path, str]]) -> DicomSeries:
    images = [image for member in members for image in member.images]
    damaged = [(m.path, m.unreadable) for m in members if m.unreadable]
    other = {m.no_image: m.path.name for m in members if m.no_image}
    first = next((m for m in members if m.images), members[0])
    notes = [f"{name} was passed over: {reason}" for reason, name in other.items()] if images else []
    planes = [plane_of(image.orientation) for image in images]
    return DicomSeries(
        folder=folder,
        uid=uid,
        study=first.study,
        number=first.number,
        description=first.description,
        images=tuple(images),
        plane=max(planes, key=planes.count, default=""),
        weighting=weighting(first.description, first.contrast, first.image_type),
        derived="DERIVED" in first.image_type,
        no_image="" if images or damaged else "; ".join(sorted(other)),
        localizer=bool(images) and (is_localizer(first.description, first.image_type) or _three_planes(planes)),
        unreadable=(*damaged, *orphans),
        notes=tuple(notes),
    )


def _three_planes(planes: Sequence[str]) -> bool:
    """Images in all three planes, none of which has more than half of them."""
    counts = {plane: planes.count(plane) for plane in set(planes) - {""}}
    return len(counts) == 3 and max(counts.values()) <= len(planes) / 2
