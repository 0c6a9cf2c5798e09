"""One file name taken apart: the scan's own name, BIDS entities, contrast, nnU-Net channel, image or label map."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from cps4_monai.scan_names.linked_folders import SearchedFolders

logger = logging.getLogger(__name__)

NIFTI_ENDINGS = (".nii.gz", ".nii")
_ENDINGS = (*NIFTI_ENDINGS, ".mha", ".mhd", ".nrrd", ".dcm", ".json")
# Words at the end of a label map's name. "trans" is what MONAI's SaveImaged adds; it may also mean "transversal", so
# that it is passed over but makes no label map.
_LABEL_WORDS = ("dseg", "seg", "segmentation", "mask", "label", "labels", "pred", "prediction")
_PASSED_OVER = (*_LABEL_WORDS, "trans")
_CONTRASTS = ("t1w", "t2w", "pdw", "flair", "stir", "t2starw", "unit1")  # BIDS suffixes
BIDS_OUTSIDE = ("derivatives", "sourcedata", "code", "stimuli")  # folders of a data set whose images are no scans of it
_OF_LABELS = ("label", "seg", "atlas")  # BIDS entities that say what a label map shows
_CHANNEL = re.compile(r"\d{4}")
_CHANNEL_FOLDER = re.compile(r"images(Tr|Ts|Val)", re.IGNORECASE)
PATIENT = re.compile(r"sub-[^_]+")  # more than BIDS allows: sub-SITE-001


def is_nifti(path: str | PurePath) -> bool:
    """Whether a file is called NIfTI, in any case (``.NII.GZ``)."""
    return PurePath(path).name.lower().endswith(NIFTI_ENDINGS)


def stem_of(path: str | PurePath) -> str:
    """File name without the ending of an image format; dots elsewhere stay, as in a folder called 1.2.840."""
    name = PurePath(path).name
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def find_nifti(folder: str | Path, broken: list[Path] | None = None) -> list[Path]:
    """NIfTI files in a folder and below, sorted; hidden files (being written, too) and hidden folders are left out.

    Links to folders are followed, each folder once (:class:`~cps4_monai.scan_names.linked_folders.SearchedFolders`). A
    warning names folders that cannot be read.

    Args:
        folder: to search; it may be hidden itself.
        broken: gets the links that lead to no file, as those of DataLad do before ``datalad get``.

    Raises:
        ValueError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with NIfTI files (.nii, .nii.gz)")
    found, searched = [], SearchedFolders(folder)

    def unreadable(error: OSError) -> None:
        logger.warning("%s: a folder that cannot be read (%s), and is left out", error.filename, error.strerror)

    for place, subfolders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        here = Path(place)
        visible = sorted(name for name in subfolders if not name.startswith("."))
        subfolders[:] = [name for name in visible if searched.add(here / name)]
        found += [here / name for name in files if is_nifti(name) and not name.startswith(".")]
    there = {path: path.is_file() for path in sorted(found)}
    if broken is not None:
        broken += [path for path, is_file in there.items() if not is_file]
    return [path for path, is_file in there.items() if is_file]


def relative_path(path: str | PurePath, folder: str | PurePath) -> PurePath:
    """A path as seen from a folder; whole where no way leads there (another drive of Windows)."""
    try:
        return PurePath(os.path.relpath(path, folder))
    except ValueError:
        return PurePath(os.path.abspath(path))


def mirrored_folder(path: str | PurePath, root: str | PurePath) -> PurePath:
    """Subfolder below the output folder in which a scan's results go: the scan's own, as seen from ``root``.

    A scan outside ``root`` keeps the way to it without the steps up, or without the drive.
    """
    parent = relative_path(os.path.abspath(PurePath(path).parent), os.path.abspath(root))
    return PurePath(*(part for part in parent.parts if part not in (os.pardir, os.curdir, parent.anchor)))


@dataclass(frozen=True)
class FileName:
    """What a file's name says.

    >>> name = FileName.of("derivatives/sub-003_acq-sag_T2w_dseg.nii.gz")
    >>> name.scan, name.contrast, name.is_label_map, name.bids_patient
    ('sub-003_acq-sag', 't2w', True, 'sub-003')

    Attributes:
        path: the file.
        stem: its name without ending.
        scan: the scan's own name: the stem without words for label maps, contrast and nnU-Net's channel; BIDS entities
            stay. Empty where nothing else is left ("seg.nii.gz").
        contrast: BIDS suffix of the contrast in lower case ("t2w"), or "".
        channel: nnU-Net's channel number, or None.
        is_label_map: whether the name says label map.
        bare: ``scan`` with its BIDS ``desc-`` entity, which tells images made from one scan apart.
    """

    path: PurePath
    stem: str
    scan: str
    contrast: str
    channel: int | None
    is_label_map: bool
    bare: str

    @classmethod
    def of(cls, path: str | PurePath) -> FileName:
        """Takes the name of a file apart.

        ``_0000`` is nnU-Net's channel 0 everywhere; other numbers of four digits are channels in nnU-Net's image
        folders only (imagesTr, imagesTs), as they number patients elsewhere.
        """
        path = PurePath(path)
        stem = stem_of(path)
        parts = stem.split("_")
        if len(parts) > 1 and parts[0].lower() == "mask":  # MRSpineSeg: mask_case1
            parts.pop(0)
        many_channels = _CHANNEL_FOLDER.fullmatch(path.parent.name) is not None
        contrast, channel, described = "", None, ""
        while parts:
            word = parts[-1].lower()
            entity = word.partition("-")[0] if "-" in word else ""
            if word in _PASSED_OVER or entity in _OF_LABELS:
                parts.pop()
            elif word in _CONTRASTS and not contrast and len(parts) > 1:
                contrast = parts.pop().lower()
            elif entity == "desc" and len(parts) > 1:
                described = parts.pop()
            elif (
                channel is None and len(parts) > 1 and (word == "0000" or (many_channels and _CHANNEL.fullmatch(word)))
            ):
                channel = int(parts.pop())
            else:
                break
        if parts and (hyphened := re.fullmatch(rf"(.+)-({'|'.join(_LABEL_WORDS)})", parts[-1], re.IGNORECASE)):
            parts[-1] = hyphened[1]
        scan = "_".join(parts)
        bare = "_".join([*parts, *([described] if described else [])])
        return cls(path, stem, scan, contrast, channel, _says_label_map(stem), bare)

    def with_channel(self) -> FileName:
        """The same file with what was taken for nnU-Net's channel as part of the scan's own name."""
        if self.channel is None:
            return self
        digits = f"_{self.channel:04d}"
        return replace(self, scan=f"{self.scan}{digits}", bare=f"{self.bare}{digits}", channel=None)

    @property
    def key(self) -> str:
        """The scan's own name for comparison: in lower case."""
        return self.scan.casefold()

    @property
    def bids_patient(self) -> str:
        """``sub-...`` where the name begins with it, otherwise ""."""
        match = PATIENT.match(self.stem)
        return match[0] if match else ""


def _says_label_map(stem: str) -> bool:
    name = stem.lower()
    last = re.split(r"[_-]", name)[-1]
    return (
        last in _LABEL_WORDS
        or any(word in name for word in ("seg", "_mask", "-mask", "_label-"))
        or name.startswith("mask")
        or name.endswith("mask")
    )
