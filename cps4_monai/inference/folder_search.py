"""Scans in a folder: NIfTI files and DICOM series; label maps and other images are passed over, and said so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cps4_monai.data.label_ownership import record_beside
from cps4_monai.inference.dicom import holds_dicom
from cps4_monai.inference.scan_files import ScanFiles
from cps4_monai.scan_names import BIDS_OUTSIDE, NIFTI_ENDINGS, FileName, SearchedFolders, is_nifti, stem_of

_NO_DICOM = (
    ".json",
    ".tsv",
    ".csv",
    ".txt",
    ".md",
    ".png",
    ".jpg",
    ".html",
    ".zip",
    ".gz",
    ".pdf",
    ".bval",
    ".bvec",
    ".xml",
    ".log",
    ".ini",
    ".exe",
    ".dll",
    ".inf",
    ".db",
)
_SAMPLE = 20  # files of each kind that are opened to see whether a folder holds DICOM ones
_NOT_READ = (".nii.bz2", ".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".mgz")  # images that are neither NIfTI nor DICOM
_MAYBE_DICOM = (".img", ".dcm", ".ima")  # images, by their first bytes DICOM or not
CONVERT = "Fix: convert it to NIfTI"


@dataclass
class Search:
    """What a folder holds: NIfTI scans, folders with DICOM files, and what was passed over, and whether it is BIDS.

    ``not_read`` are those of the skipped files that are images in another format.
    """

    scans: list[Path] = field(default_factory=list)
    dicom: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    not_read: list[Path] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)
    bids: bool = False


def search_folder(folder: str | Path, leave_out: str | Path | None = None) -> Search:
    """Searches a folder and its subfolders, sorted by path.

    A BIDS data set (a ``dataset_description.json`` at its top) gives its ``anat/*_T2w`` scans, and ``*_T1w`` where a
    folder has no T2w one; its derivatives are left out. Elsewhere every NIfTI file counts whose name does not say
    label map. Images in formats that are not read are skipped with the reason, copies of our label maps without.

    Args:
        folder: to search; links to folders are followed, each folder once.
        leave_out: a folder inside that is not searched (the output folder).
    """
    folder, search = Path(folder), Search()
    outside = None if leave_out is None else os.path.realpath(leave_out)
    searched = SearchedFolders(folder)
    bids = search.bids = (folder / "dataset_description.json").is_file()

    def unreadable(error: OSError) -> None:
        where = Path(error.filename or folder)
        search.failures.append((where, f"folder cannot be read ({error.strerror}); change its permissions"))

    for place, subfolders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        here = Path(place)
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".")
            and not (bids and here == folder and name in BIDS_OUTSIDE)
            and os.path.realpath(here / name) != outside
        )
        again = [name for name in subfolders if not searched.add(here / name)]
        search.skipped += [(here / name, "a link to a folder that is searched elsewhere") for name in again]
        subfolders[:] = [name for name in subfolders if name not in again]
        visible = sorted(name for name in files if not name.startswith("."))
        nifti = {here / n: FileName.of(here / n) for n in visible if is_nifti(n)}
        channels = any(named.channel == 0 for named in nifti.values())  # without any, four digits number the scans
        for path, named in nifti.items():
            if named.is_label_map:
                search.skipped.append((path, "its name says label map"))
            elif named.channel and channels:
                search.skipped.append(
                    (path, f"channel {named.channel} of {named.scan} in nnU-Net's layout, whose channel 0 is segmented")
                )
            elif bids and (reason := _not_of_bids(stem_of(path), visible)):
                search.skipped.append((path, f"{reason} of this BIDS data set; name the file to segment it"))
            else:
                search.scans.append(path)
        if any(holds_dicom(here / n) for n in _sample(visible)):
            search.dicom.append(here)
        _add_other_formats(here, visible, search)
    return search


def _add_other_formats(here: Path, visible: Sequence[str], search: Search) -> None:
    """Images of one folder that are neither NIfTI nor DICOM; one that is two files (.hdr with .img) is told once."""
    copies = any(n.lower().endswith(".nrrd") for n in visible)  # only then are the sidecars read
    maps = [here / n for n in visible if copies and is_nifti(n)]
    ours = {ScanFiles.beside(path).seg_nrrd.name for path in maps if record_beside(path)}
    for name in (n for n in visible if n not in ours):
        path, ending = here / name, _ending(name, (*_NOT_READ, *_MAYBE_DICOM))
        if not ending or (ending in _MAYBE_DICOM and holds_dicom(path)):
            continue
        if ending == ".img" and any(n.lower() == f"{path.stem}.hdr".lower() for n in visible):
            continue
        if ending in (".dcm", ".ima") and here in search.dicom:  # told as a damaged file of its series
            continue
        if FileName.of(here / name[: -len(ending)]).is_label_map:
            search.skipped.append((path, "its name says label map"))
            continue
        found = "no DICOM file, by its first bytes" if ending in (".dcm", ".ima") else f"{ending} files are not read"
        search.skipped.append((path, f"{found}; expected NIfTI (.nii, .nii.gz) or DICOM. {CONVERT}"))
        search.not_read.append(path)


def _ending(name: str, endings: Sequence[str]) -> str:
    return next((ending for ending in endings if name.lower().endswith(ending)), "")


def _not_of_bids(stem: str, beside: Sequence[str]) -> str:
    """What an image is instead of the one to segment among those in its folder; empty: it is that one."""
    if stem.endswith("_T2w"):
        return ""
    if not stem.endswith("_T1w"):
        return "neither a T2w nor a T1w scan"
    return "a T1w scan beside a T2w one" if any(stem_of(n).endswith("_T2w") for n in beside if is_nifti(n)) else ""


def _sample(names: Sequence[str]) -> list[str]:
    """Some files of a folder that may be DICOM, likely ones first; DICOMDIR is a table of contents.

    Likely are DICOM's endings, then names without one, as ``IM0001`` or a UID (``1.2.840.10008``).
    """
    never = (*NIFTI_ENDINGS, *_NOT_READ, *_NO_DICOM)
    possible = [n for n in names if not n.lower().endswith(never) and n.upper() != "DICOMDIR"]
    groups: tuple[list[str], ...] = ([], [], [])
    for name in possible:
        groups[0 if _ending(name, (".dcm", ".ima")) else 1 if not Path(name).suffix[1:].isalpha() else 2].append(name)
    return [n for group in groups for n in dict.fromkeys((*group[:_SAMPLE], *group[-1:]))]
