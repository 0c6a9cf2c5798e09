"""Which predicted label map belongs to which label, by file names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".nii.gz", ".nii")
# What names carry beside the scan's own name; taken off the end, so "sub-005_T2w_dseg" and "sub-005_dseg" meet.
LABEL_WORDS = ("dseg", "seg", "mask", "label", "labels", "pred", "prediction", "trans")
DECORATIONS = (*LABEL_WORDS, "t2w", "t1w", "0000")


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


def stem(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def scan_key(path: Path) -> str:
    """The scan's own name: the stem without ``DECORATIONS`` at its end, nor "mask" before it as MRSpineSeg writes."""
    parts = stem(path).lower().split("_")
    while len(parts) > 1 and parts[-1] in DECORATIONS:
        parts.pop()
    if len(parts) > 1 and parts[0] == "mask":
        parts.pop(0)
    return "_".join(parts)


def subject_of(path: Path) -> str:
    """BIDS subject ("sub-005") where the name holds one, the scan's own name otherwise."""
    key = scan_key(path)
    first = key.split("_")[0]
    return first if first.startswith("sub-") else key


def find_volumes(folder: Path) -> list[Path]:
    """NIfTI files in a folder and below, sorted; hidden ones left out.

    Raises:
        ValueError: no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with label maps (*.nii.gz)")
    return sorted(p for p in folder.rglob("*.nii*") if p.name.endswith(SUFFIXES) and not p.name.startswith("."))


def _label_maps(paths: Sequence[Path]) -> list[Path]:
    """Those called a label map (``*_dseg``, ``*_pred``, ``mask_*``, ...); all of them if none is."""

    def called_so(path: Path) -> bool:
        name = stem(path).lower()
        return name.startswith("mask_") or name.split("_")[-1] in LABEL_WORDS

    return [path for path in paths if called_so(path)] or list(paths)


def _index(paths: Sequence[Path], root: Path) -> dict[tuple[str, str], list[Path]]:
    """(folder below root, scan key) -> files."""
    index: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in paths:
        index[(path.parent.relative_to(root).as_posix(), scan_key(path))].append(path)
    return index


class PredictionIndex:
    """Finds the prediction of a scan in a folder: the same subfolder first, anywhere if the name is unique there.

    Args:
        folder: predictions; scans may lie beside them.
        labels: the ground truth; never taken for a prediction where it lies in the same folder.

    Raises:
        ValueError: the folder is missing, or two predictions in one subfolder are for one scan.
    """

    def __init__(self, folder: str | Path, labels: Sequence[Path] = ()) -> None:
        self.folder = Path(folder)
        truth = {path.resolve() for path in labels}
        self.paths = _label_maps([path for path in find_volumes(self.folder) if path.resolve() not in truth])
        self._by_place = _index(self.paths, self.folder)
        self._by_key: dict[str, list[Path]] = defaultdict(list)
        for (_, key), paths in self._by_place.items():
            if len(paths) > 1:
                raise ValueError(
                    f"{self.folder}: {[p.name for p in paths]} are all predictions for {key!r}; keep one of them"
                )
            self._by_key[key] += paths

    def find(self, key: str, place: str = ".") -> Path | None:
        """Prediction of the scan ``key``, or None.

        Raises:
            ValueError: several subfolders hold a prediction of that name and none of them is ``place``.
        """
        here = self._by_place.get((place, key))
        if here:
            return here[0]
        anywhere = self._by_key.get(key, [])
        if len(anywhere) > 1:
            raise ValueError(
                f"{self.folder}: {[str(p.relative_to(self.folder)) for p in anywhere]} could all be the prediction of "
                f"{key!r}; mirror the subfolders of the labels"
            )
        return anywhere[0] if anywhere else None


def match_folder(predictions: str | Path, labels: str | Path) -> Matching:
    """Cases of a folder of labels (``*_dseg``, ``*_mask``, ``*_seg``, ``mask_*``; any name if none is called so).

    Raises:
        ValueError: a folder is missing, holds no label maps, or names are ambiguous.
    """
    root = Path(labels)
    volumes = find_volumes(root)
    label_paths = _label_maps(volumes)
    if not label_paths:
        raise ValueError(f"{root}: no label map (*.nii.gz) in it or below it")
    images = _index([p for p in volumes if p not in set(label_paths)], root)
    index = PredictionIndex(predictions, label_paths)
    cases = []
    for (place, key), paths in sorted(_index(label_paths, root).items()):
        if len(paths) > 1:
            raise ValueError(f"{root}: {[p.name for p in paths]} are all labels of the scan {key!r}; keep one of them")
        name = key if place == "." else f"{place}/{key}"
        image = images.get((place, key), [None])[0]
        cases.append(Case(name, subject_of(paths[0]), paths[0], index.find(key, place), image))
    return _matching(cases, index)


def match_entries(predictions: str | Path, entries: Sequence[tuple[Path, Path, str]]) -> Matching:
    """Cases of datalist entries (image, label, subject): predictions carry the image's name, or the label's.

    Raises:
        ValueError: the folder is missing or names are ambiguous.
    """
    index = PredictionIndex(predictions, [label for _, label, _ in entries])
    cases = []
    for image, label, subject in entries:
        pred = index.find(scan_key(image)) or index.find(scan_key(label))
        cases.append(Case(scan_key(image), subject, label, pred, image))
    return _matching(cases, index)


def _matching(cases: Sequence[Case], index: PredictionIndex) -> Matching:
    used = {case.pred for case in cases}
    return Matching(tuple(cases), tuple(path for path in index.paths if path not in used))
