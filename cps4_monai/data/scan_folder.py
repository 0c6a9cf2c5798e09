"""Scans and label maps found in a folder: BIDS, plain pairs, or nnU-Net's raw layout."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from cps4_monai.data.datalist import DatalistError, subject_of
from cps4_monai.data.leaks import patient_of

logger = logging.getLogger(__name__)

IMAGE, LABEL, NIFTI = "_T2w", "_dseg", (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """One scan: its files, its subject (with session), and whether the folder reserves it for testing."""

    image: Path
    label: Path | None
    subject: str
    held_out: bool = False

    @property
    def patient(self) -> str:
        """The subject without its session."""
        return patient_of(self.subject)


def find_scans(folder: str | Path) -> list[Scan]:
    """Finds all scans of a folder, sorted by subject.

    nnU-Net's layout is taken where ``imagesTr`` exists (``imagesTr/A_0000.nii.gz``, ``labelsTr/A.nii.gz``, and
    ``imagesTs`` with ``labelsTs`` as held-out scans); otherwise every ``*_T2w.nii[.gz]`` of the tree, with the label
    map ``*_dseg.nii[.gz]`` of the same name, beside it or anywhere in the tree (BIDS derivatives).

    Raises:
        DatalistError: no folder, no scan, or two scans of one subject and session.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatalistError(f"{folder}: no such folder; expected a folder of scans")
    scans = _nnunet(folder) if (folder / "imagesTr").is_dir() else _pairs(folder)
    if not scans:
        raise DatalistError(
            f"{folder}: no scan found; expected *{IMAGE}.nii.gz with *{LABEL}.nii.gz (BIDS or plain pairs), or "
            "nnU-Net's imagesTr and labelsTr: rename the files, or convert them with 'cps4 convert'"
        )
    first: dict[str, Scan] = {}
    for scan in scans:
        other = first.setdefault(scan.subject, scan)
        if other is not scan:
            raise DatalistError(
                f"{folder}: two scans are called {scan.subject}: {other.image} and {scan.image}; expected one scan for "
                "each subject and session: rename or remove one"
            )
    return sorted(scans, key=lambda s: s.subject)


def _pairs(folder: Path) -> list[Scan]:
    images, labels = _files(folder, IMAGE), _files(folder, LABEL)
    by_name: dict[str, list[Path]] = {}
    for path in labels:
        by_name.setdefault(_stem(path, LABEL), []).append(path)
    scans = []
    for image in images:
        stem = _stem(image, IMAGE)
        found = by_name.get(stem, [])
        beside = [p for p in found if p.parent == image.parent]
        if len(beside or found) > 1:
            raise DatalistError(
                f"{image}: {len(found)} label maps fit: {', '.join(map(str, found))}; expected one: remove the others"
            )
        scans.append(Scan(image, next(iter(beside or found), None), subject_of(image)))
    return scans


def _nnunet(folder: Path) -> list[Scan]:
    scans, unlabeled_test = [], []
    for images, labels, held_out in (("imagesTr", "labelsTr", False), ("imagesTs", "labelsTs", True)):
        for image in sorted(p for p in (folder / images).glob("[!.]*") if p.name.endswith(NIFTI)):
            case = subject_of(image)
            names = [folder / labels / f"{case}{ending}" for ending in NIFTI]
            label = next((p for p in names if p.is_file()), None)
            if held_out and label is None:
                unlabeled_test.append(case)
            else:
                scans.append(Scan(image, label, case, held_out))
    if unlabeled_test:
        logger.warning("%s: %d test scans have no label map in labelsTs and are left out", folder, len(unlabeled_test))
    return scans


def _files(folder: Path, suffix: str) -> list[Path]:
    # A dot in front: hidden, or being written.
    return sorted(p for p in folder.rglob(f"[!.]*{suffix}.nii*") if p.name.endswith(NIFTI) and p.is_file())


def _stem(path: Path, suffix: str) -> str:
    return path.name[: path.name.rindex(suffix)]
