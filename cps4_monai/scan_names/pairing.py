"""Which files belong to which scans, by names and folders: label maps to images, predictions to labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cps4_monai.scan_names.file_name import FileName


@dataclass(frozen=True)
class Pairing:
    """Files by the scan they belong to.

    Attributes:
        partners: scan -> its files, those that fit best alone; no entry for a scan without a file.
        unmatched: files that belong to no scan.
        ambiguous: file -> the scans that it fits equally well.
    """

    partners: dict[Path, list[Path]]
    unmatched: list[Path]
    ambiguous: dict[Path, list[Path]]


def only_label_maps(paths: Sequence[Path]) -> list[Path]:
    """Those called a label map (``*_dseg``, ``*_pred``, ``mask_*``, ...); all of them if none is."""
    return [path for path in paths if FileName.of(path).is_label_map] or list(paths)


def pair_files(scans: Sequence[Path], scans_root: Path, files: Sequence[Path], files_root: Path) -> Pairing:
    """Finds the scan of each file.

    A file belongs to the scan of its name (:attr:`FileName.key`), the contrast being the same where both names say one;
    a file without a name of its own ("seg.nii.gz") to the scan in its folder, and the other way about. Of several such
    scans it belongs to the one beside it, or to the one in the folder that its own mirrors (``labels/p1/`` and
    ``images/p1/`` below ``labels`` and ``images``); where names repeat, one of the two is needed.

    Args:
        scans: images, or label maps to find predictions for; none twice.
        scans_root: the folder they were found in.
        files: label maps or predictions.
        files_root: the folder they were found in.
    """
    named = _Names(scans, scans_root), _Names(files, files_root)
    claims: dict[Path, list[tuple[tuple[int, int, bool], Path]]] = defaultdict(list)
    unmatched: list[Path] = []
    ambiguous: dict[Path, list[Path]] = {}
    for file in files:
        fits = _fits(file, *named)
        best = max((score for score, _ in fits), default=None)
        chosen = [scan for score, scan in fits if score == best]
        if not chosen or best is None:
            unmatched.append(file)
        elif len(chosen) > 1:
            ambiguous[file] = chosen
        else:
            claims[chosen[0]].append((best, file))
    partners = {}
    for scan, claimed in claims.items():
        closest = max(score[:2] for score, _ in claimed)
        partners[scan] = [file for score, file in claimed if score[:2] == closest]
        unmatched += [file for score, file in claimed if score[:2] != closest]
    return Pairing(partners, sorted(unmatched), ambiguous)


class _Names:
    """Files with their names, by key, and their folders below a root."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.names = {path: FileName.of(path) for path in paths}
        self.by_key: defaultdict[str, list[Path]] = defaultdict(list)
        for path, name in self.names.items():
            self.by_key[name.key].append(path)
        self.folders = {path: _below(path, root) for path in paths}
        places = Counter(key for key, paths in self.by_key.items() for _ in {p.parent for p in paths})
        self.repeated = {key for key, count in places.items() if count > 1}


def _fits(file: Path, scans: _Names, files: _Names) -> list[tuple[tuple[int, int, bool], Path]]:
    """Scans that a file may belong to, with (closeness of the folders, parts that agree, the same description)."""
    name = files.names[file]
    fits = []
    candidates = [*scans.by_key[name.key], *scans.by_key[""]] if name.key else list(scans.names)
    for scan in candidates:
        other = scans.names[scan]
        if name.contrast and other.contrast and name.contrast != other.contrast:
            continue
        close = _closeness(scan, scans.folders[scan], file, files.folders[file])
        folder_needed = "" in (name.key, other.key) or name.key in scans.repeated or name.key in files.repeated
        if close[0] or not folder_needed:
            fits.append(((*close, name.bare.casefold() == other.bare.casefold()), scan))
    return fits


def _closeness(scan: Path, scan_folder: tuple[str, ...], file: Path, file_folder: tuple[str, ...]) -> tuple[int, int]:
    if scan.parent == file.parent:
        return 3, 0
    if scan_folder == file_folder:
        return 2, len(scan_folder)
    for below, whole in ((file_folder, scan.absolute().parent.parts), (scan_folder, file.absolute().parent.parts)):
        if below and whole[-len(below) :] == below:
            return 1, len(below)
    return 0, 0


def _below(path: Path, root: Path) -> tuple[str, ...]:
    parent, top = path.absolute().parent, root.absolute()
    return parent.relative_to(top).parts if parent.is_relative_to(top) else parent.parts
