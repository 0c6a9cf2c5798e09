"""Scans and label maps found in a folder: BIDS, plain pairs, a folder for each patient, or nnU-Net's raw layout."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cps4_monai.data.entries import DatalistError
from cps4_monai.data.label_review import without_predictions
from cps4_monai.data.nifti_file import read_header
from cps4_monai.data.volume import InvalidVolumeError, looks_like_label_map, read_volume
from cps4_monai.scan_names import (
    BIDS_OUTSIDE,
    FileName,
    find_nifti,
    further_channels,
    identify,
    is_nifti,
    pair_files,
    without_date,
    without_sequence,
)

LABEL_FOLDERS = ("label", "labels", "mask", "masks", "segmentation", "segmentations", "derivatives")
_PREDICTIONS = (
    "label maps were made by this program, accepted by no person, and are left out ('cps4 relabel FILE --accept' "
    "accepts one)"
)
_BROKEN = "links lead to no file and are left out ('datalad get' fetches files of DataLad)"
_FEW_BITS = 0.25  # in bytes a voxel; images compress to 0.5 to 1.5, label maps to 0.02
MANY_IN_A_FOLDER = 10  # scans; a folder of more is no patient's


@dataclass(frozen=True)
class Scan:
    """One scan: its files, its subject (see :func:`identify`), its patient, and whether it is kept for testing."""

    image: Path
    label: Path | None
    subject: str
    patient: str
    held_out: bool = False


@dataclass(frozen=True)
class FoundScans:
    """Scans of a folder, sorted by subject, and a sentence for each kind of file that was passed over."""

    scans: tuple[Scan, ...]
    warnings: tuple[str, ...] = ()


def find_scans(folder: str | Path) -> FoundScans:
    """Finds all scans of a folder.

    nnU-Net's layout is taken where ``imagesTr`` exists (``imagesTr/A_0000.nii.gz``, ``labelsTr/A.nii.gz``, and
    ``imagesTs`` with ``labelsTs`` as held-out scans; of several channels, the first). Otherwise every
    ``*_T2w.nii[.gz]`` of the tree is a scan or, where there is none, every NIfTI file that is not called a label map;
    its label map is the ``*dseg.nii[.gz]`` of the same name (where there is no dseg at all: ``seg``, ``mask``,
    ``label``), beside it or elsewhere in the tree (BIDS derivatives). Label maps of `cps4 segment` that no person
    corrected or accepted are no labels.

    Raises:
        DatalistError: no folder, no scan, several label maps for a scan, or several data sets of nnU-Net.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatalistError(f"{folder}: no such folder; expected a folder of scans")
    in_folder = _nnunet(folder) if (folder / "imagesTr").is_dir() else _pairs(folder)
    sets = [] if any(scan.label for scan in in_folder.scans) else sorted(folder.glob("*/imagesTr"))
    if sets:
        raise DatalistError(
            f"{folder}: no scan with a label map, but data sets in nnU-Net's layout "
            f"({', '.join(path.parent.name for path in sets[:5])}); expected one of them: give its own folder, e.g. "
            f"{sets[0].parent}"
        )
    if not in_folder.scans:
        raise DatalistError(
            f"{folder}: no scan found; expected *_T2w.nii.gz with *_dseg.nii.gz (BIDS or plain pairs), or nnU-Net's "
            "imagesTr and labelsTr: rename the files, or convert them with 'cps4 convert'"
            + "".join(f"; {told}" for told in in_folder.warnings)
        )
    return FoundScans(tuple(sorted(in_folder.scans, key=lambda s: s.subject)), in_folder.warnings)


def _pairs(folder: Path) -> FoundScans:
    broken: list[Path] = []
    files = find_nifti(folder, broken)
    called_labels = [path for path in files if _is_label_map(path, folder)]
    labels, predictions = without_predictions(called_labels)
    bids = (folder / "dataset_description.json").is_file()
    outside = [path for path in files if bids and path.relative_to(folder).parts[0] in BIDS_OUTSIDE]
    known = {*called_labels, *outside}  # derivatives may hold the label maps, and images made from the scans
    others = [path for path in files if path not in known]
    channels = _channels_without_label(others, labels)
    images = [path for path in others if FileName.of(path).stem.endswith("_T2w")]
    images = images or [path for path in others if path not in channels]
    dseg = [path for path in labels if FileName.of(path).stem.lower().endswith("dseg")] or labels
    pairing = pair_files(images, folder, dseg, folder)
    chosen: dict[Path, Path] = {}
    for image, fitting in pairing.partners.items():
        chosen[image] = _one_of(fitting, image)
    alone = _only_ones([image for image in images if image not in chosen], others, pairing.unmatched, dseg)
    chosen |= alone
    paired = set(alone.values())
    masks = _masks(images, chosen)
    images = [path for path in images if path not in masks]  # nor do they say who is a patient
    scans = tuple(
        Scan(image, chosen.get(image), who.subject, who.patient)
        for image, who in zip(images, identify([p.relative_to(folder) for p in images]), strict=True)
    )
    several = [f"{file} (fits {', '.join(map(str, fits))})" for file, fits in pairing.ambiguous.items()]
    named_otherwise = set(labels) - set(dseg)
    taken = {*images, *channels, *masks}
    warnings = [
        *told_of(_PREDICTIONS, predictions),
        *told_of("label maps belong to no scan and are left out", [p for p in pairing.unmatched if p not in paired]),
        *told_of(
            "label maps have another name than the only scan beside them, whose they are taken for", sorted(paired)
        ),
        *told_of("label maps fit several scans and are left out: mirror the scans' folders", several),
        *told_of("label maps are not called dseg and are left out", sorted(named_otherwise)),
        *told_of(
            f"images below {', '.join(BIDS_OUTSIDE)} are no scans of this BIDS data set and are left out",
            sorted(set(outside) - set(called_labels)),
        ),
        *told_of(
            "files hold whole numbers, few of them, beside a labeled scan: label maps, and are left out", sorted(masks)
        ),
        *told_of("files are further channels and are left out: one channel is trained on", sorted(channels)),
        *told_of("NIfTI files are no *_T2w scans and are left out", [p for p in others if p not in taken]),
        *told_of(_BROKEN, broken),
        *_repeated(scans),
        *_by_endings(scans),
        *_together(scans),
    ]
    return FoundScans(scans, tuple(warnings))


def _masks(images: Sequence[Path], labels: Mapping[Path, Path]) -> set[Path]:
    """Images beside a labeled scan that are label maps by their voxels, and no contrast by their names."""
    labeled = {image.parent for image in labels}
    beside = [image for image in images if image not in labels and image.parent in labeled]
    return {image for image in beside if not FileName.of(image).contrast and _is_mask(image)}


def _is_mask(image: Path) -> bool:
    """Whether an image is a label map; a compressed one is read where it takes a few bits a voxel, as these do."""
    try:
        if image.name.lower().endswith(".gz"):
            voxels = int(np.prod(np.maximum(read_header(image)["dim"][1:4], 1), dtype=np.int64))
            if image.stat().st_size > _FEW_BITS * voxels:
                return False
        return looks_like_label_map(read_volume(image, assume_spacing=(1, 1, 1)).array)
    except InvalidVolumeError:
        return False  # told when it is used


def _one_of(fitting: Sequence[Path], image: Path) -> Path:
    """The label map of a scan.

    Raises:
        DatalistError: there are several.
    """
    if len(fitting) > 1:
        names = ", ".join(map(str, fitting))
        raise DatalistError(f"{image}: {len(fitting)} label maps fit: {names}; expected one: remove the others")
    return fitting[0]


def _only_ones(
    free: Sequence[Path], scans: Sequence[Path], unmatched: Sequence[Path], labels: Sequence[Path]
) -> dict[Path, Path]:
    """Scan -> label map of folders that hold one scan and one label map, neither of which belongs elsewhere.

    Names that say two contrasts, or two patients, keep them apart.
    """
    count = Counter(path.parent for path in scans), Counter(path.parent for path in labels)
    alone = {image.parent: image for image in free if count[0][image.parent] == 1}
    pairs = {alone[p.parent]: p for p in unmatched if p.parent in alone and count[1][p.parent] == 1}
    return {image: label for image, label in pairs.items() if _may_belong(FileName.of(image), FileName.of(label))}


def _may_belong(image: FileName, label: FileName) -> bool:
    said = ((image.contrast, label.contrast), (image.bids_patient, label.bids_patient))
    return all(one == other or not (one and other) for one, other in said)


def _channels_without_label(images: Sequence[Path], labels: Sequence[Path]) -> set[Path]:
    """Further channels beside their scans; an image whose number a label map has, too, is a scan of its own."""
    named = {FileName.of(label).key for label in labels}
    return {Path(path) for path in further_channels(images) if FileName.of(path).key not in named}


def _nnunet(folder: Path) -> FoundScans:
    scans: list[Scan] = []
    warnings: list[str] = []
    without_label: list[Path] = []
    broken: list[Path] = []
    for images, labels, held_out in (("imagesTr", "labelsTr", False), ("imagesTs", "labelsTs", True)):
        named = [FileName.of(path) for path in _files(folder / images, broken)]
        first = [Path(n.path) for n in named if not n.channel]
        label_maps, predictions = without_predictions(_files(folder / labels, broken))
        pairing = pair_files(first, folder / images, label_maps, folder / labels)
        for image in first:
            label = _one_of(pairing.partners[image], image) if image in pairing.partners else None
            if held_out and label is None:
                without_label.append(image)
                continue
            case = FileName.of(image).scan
            scans.append(Scan(image, label, case, case, held_out))
        warnings += told_of(
            f"files of {images} are further channels and are left out: one channel is trained on",
            [n.path for n in named if n.channel],
        )
        warnings += told_of(_PREDICTIONS, predictions)
        orphans = [*pairing.unmatched, *pairing.ambiguous]
        warnings += told_of(f"label maps of {labels} belong to no scan of {images} and are left out", orphans)
    if not scans and (numbered := sorted(path.name for path in _files(folder / "imagesTr", []))):
        raise DatalistError(
            f"{folder}: imagesTr holds {numbered[0]} and {len(numbered) - 1} more, of which none ends in _0000: four "
            "digits at the end are nnU-Net's channel; expected CASE_0000.nii.gz for each case. Fix: rename the files"
        )
    warnings += told_of(_BROKEN, broken)
    warnings += told_of("test scans have no label map in labelsTs and are left out", without_label)
    scans = _by_contrast(scans)
    double = sorted(name for name, count in Counter(scan.subject for scan in scans).items() if count > 1)
    if double:
        raise DatalistError(
            f"{folder}: several scans are called {', '.join(double[:5])}; expected one for each case, in imagesTr or "
            "in imagesTs: rename or remove the others"
        )
    identities = identify([scan.image for scan in scans])
    scans = [replace(scan, patient=who.patient) for scan, who in zip(scans, identities, strict=True)]
    return FoundScans(tuple(scans), (*warnings, *_by_endings(scans)))


def _by_contrast(scans: Sequence[Scan]) -> list[Scan]:
    """Cases of nnU-Net that differ in their contrast alone, called by their whole name."""
    contrasts: dict[str, list[str]] = defaultdict(list)
    for scan in scans:
        contrasts[scan.subject].append(FileName.of(scan.image).contrast)
    told = {case for case, own in contrasts.items() if len(own) == len(set(own)) > 1}
    return [
        replace(scan, subject=FileName.of(scan.image).stem.removesuffix("_0000")) if scan.subject in told else scan
        for scan in scans
    ]


def _is_label_map(path: Path, folder: Path) -> bool:
    """By its name, or by a folder called labels or the like where its name is that of a scan."""
    places = {part.lower() for part in path.relative_to(folder).parts[:-1]}
    name = FileName.of(path)
    return name.is_label_map or (not name.contrast and bool(places & set(LABEL_FOLDERS)))


def _files(folder: Path, broken: list[Path]) -> list[Path]:
    if not folder.is_dir():
        return []
    named = sorted(p for p in folder.iterdir() if is_nifti(p) and not p.name.startswith("."))
    broken += [path for path in named if path.is_symlink() and not path.exists()]
    return [path for path in named if path.is_file()]


def told_of(what: str, files: Sequence[object], shown: int = 5) -> list[str]:
    """A warning that names the files, or none."""
    names = ", ".join(str(file) for file in files[:shown])
    more = f" and {len(files) - shown} more" if len(files) > shown else ""
    return [f"{len(files)} {what}: {names}{more}"] if files else []


def _by_endings(scans: Sequence[Scan]) -> list[str]:
    """What was made of scans whose names end in a date, or in words for the sequence."""
    unsaid = [scan for scan in scans if not FileName.of(scan.image).bids_patient]  # the others' names say who it is
    told = []
    for ending, shorter in (("a date", without_date), ("words for the sequence", without_sequence)):
        ends = [scan for scan in unsaid if shorter(scan.subject) != scan.subject]
        named = [scan for scan in ends if scan.patient.casefold() == shorter(scan.subject).casefold()]
        unsaid = sorted(set(unsaid) - set(named), key=lambda scan: scan.subject)
        if named:
            count, first = len({scan.patient for scan in named}), named[0]
            told.append(
                f"{len(named)} names end in {ending} and count as {count} patients (scan {first.subject}: patient "
                f"{first.patient}): check that, and otherwise name the files sub-PATIENT_..._T2w.nii.gz"
            )
    return told


def _repeated(scans: Sequence[Scan]) -> list[str]:
    """What was made of scans whose file names repeat."""
    by_folder = [scan for scan in scans if "/" in scan.subject]
    if not by_folder:
        return []
    patients: dict[str, list[Scan]] = defaultdict(list)
    for scan in by_folder:
        patients[scan.patient].append(scan)
    example = by_folder[0]
    return [
        f"{len(by_folder)} scans share their file names with others and are called by their folders; they count as "
        f"{len(patients)} patients (scan {example.subject}: patient {example.patient}): check that, and otherwise name "
        "the files sub-PATIENT_..._T2w.nii.gz"
    ]


def _together(scans: Sequence[Scan]) -> list[str]:
    """A warning about small folders of several scans, which count as patients of their own: a folder for a patient?"""
    folders: dict[Path, list[Scan]] = defaultdict(list)
    for scan in scans:
        folders[scan.image.parent].append(scan)
    apart = [inside for inside in folders.values() if len({scan.patient for scan in inside}) > 1]
    if len(apart) < 2 or len(scans) > MANY_IN_A_FOLDER * len(folders):
        return []
    one, other = apart[0][:2]
    return [
        f"{len(apart)} folders hold scans of several patients, as the names have it ({one.image.parent.name}: "
        f"{one.patient}, {other.patient}): if each folder is one patient, name the files sub-PATIENT_..._T2w.nii.gz"
    ]
