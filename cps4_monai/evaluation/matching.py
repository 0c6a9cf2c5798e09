"""Which predicted label map belongs to which label, by file names and folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cps4_monai.data.label_review import without_predictions
from cps4_monai.scan_names import Pairing, find_nifti, identify, only_label_maps, pair_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """One label with its prediction.

    Attributes:
        name: the scan's name, unique within an evaluation.
        subject: the patient; two scans of one patient count as one in intervals over patients.
        label: file.
        pred: file; None where none was found.
        image: the scan itself for pictures; None where none was found.
    """

    name: str
    subject: str
    label: Path
    pred: Path | None
    image: Path | None = None


@dataclass(frozen=True)
class Matching:
    """Cases by name, and predictions that belong to no label."""

    cases: tuple[Case, ...]
    unmatched_predictions: tuple[Path, ...] = field(default=())


def match_folder(predictions: str | Path, labels: str | Path) -> Matching:
    """Cases of a folder of labels (``*_dseg``, ``*_mask``, ``*_seg``, ``mask_*``; any name if none is called so).

    Scans may lie beside predictions and labels; a label is never taken for a prediction, nor a label map that this
    package wrote and no person accepted for a label.

    Raises:
        ValueError: a folder is missing, holds no label maps of people, or names are ambiguous.
    """
    root = Path(labels)
    volumes = find_nifti(root)
    called_labels = only_label_maps(volumes)
    label_paths, of_ours = without_predictions(called_labels)
    if not called_labels:
        raise ValueError(f"{root}: no label map (*.nii.gz) in it or below it")
    if not label_paths:
        raise ValueError(
            f"{root}: all {len(of_ours)} label maps in it were made by this program and accepted by no person, e.g. "
            f"{of_ours[0]}; expected labels of people. Fix: give the folder of the labels, or accept label maps that "
            "are right with 'cps4 relabel FILE --accept'"
        )
    known = set(called_labels)
    images = pair_files(label_paths, root, [p for p in volumes if p not in known], root).partners
    _refuse_double_labels(label_paths, root)
    paths = _predictions(Path(predictions), label_paths)
    partners = _one_each(pair_files(label_paths, root, paths, Path(predictions)))
    cases = [
        Case(who.subject, who.patient, path, partners.get(path), next(iter(images.get(path, [])), None))
        for path, who in zip(label_paths, identify([p.relative_to(root) for p in label_paths]), strict=True)
    ]
    return _matching(sorted(cases, key=lambda case: case.name), paths)


def match_entries(
    predictions: str | Path, entries: Sequence[tuple[Path, Path, str]], elsewhere: Sequence[Path] = ()
) -> Matching:
    """Cases of datalist entries (image, label, patient): predictions carry the image's name, or the label's.

    Args:
        predictions: folder, searched.
        entries: what is scored.
        elsewhere: further scans of the datalist, which are not: their predictions belong to no case, and are left out.

    Raises:
        ValueError: the folder is missing or names are ambiguous.
    """
    root = Path(predictions)
    images, labels = [Path(image) for image, _, _ in entries], [Path(label) for _, label, _ in entries]
    paths = _predictions(root, labels)
    by_image = _one_each(pair_files(images, _common(images), paths, root))
    named_by_image = set(by_image.values())
    rest = [path for path in paths if path not in named_by_image]
    by_label = _one_each(pair_files(labels, _common(labels), rest, root))
    cases = [
        Case(who.subject, patient, label, by_image.get(image) or by_label.get(label), image)
        for who, (image, label, patient) in zip(identify(images), entries, strict=True)
    ]
    matching = _matching(cases, paths)
    others = pair_files(list(elsewhere), _common(elsewhere), list(matching.unmatched_predictions), root)
    passed = len(matching.unmatched_predictions) - len(others.unmatched)
    if passed:
        logger.info("%d label maps are of scans in other sections of the datalist, and not scored", passed)
    return replace(matching, unmatched_predictions=tuple(others.unmatched))


def _predictions(folder: Path, truth: Sequence[Path]) -> list[Path]:
    known = {path.resolve() for path in truth}
    return only_label_maps([path for path in find_nifti(folder) if path.resolve() not in known])


def _one_each(pairing: Pairing) -> dict[Path, Path]:
    """Scan -> prediction.

    Raises:
        ValueError: a prediction fits several scans, or a scan has several.
    """
    for file, fits in pairing.ambiguous.items():
        raise ValueError(
            f"{file} could be the prediction of {', '.join(map(str, fits))}; mirror the subfolders of the scans"
        )
    for scan, files in pairing.partners.items():
        if len(files) > 1:
            raise ValueError(f"{', '.join(map(str, files))} are all predictions for {scan}; keep one of them")
    return {scan: files[0] for scan, files in pairing.partners.items()}


def _refuse_double_labels(paths: Sequence[Path], root: Path) -> None:
    """Two label maps of one scan in one folder would be two cases of one name."""
    for path, files in pair_files(paths, root, paths, root).ambiguous.items():
        raise ValueError(f"{path.parent}: {sorted(p.name for p in files)} are all labels of one scan; keep one of them")


def _common(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()


def _matching(cases: Sequence[Case], predictions: Sequence[Path]) -> Matching:
    used = {case.pred for case in cases}
    return Matching(tuple(cases), tuple(path for path in predictions if path not in used))
