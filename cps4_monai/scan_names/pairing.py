"""Which files belong to which scans, by names and folders: label maps to images, predictions to labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
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
    sides = [{path: FileName.of(path) for path in paths} for paths in (scans, files)]
    keys = [{name.key for name in names.values()} for names in sides]
    as_seen = [
        {path: _as_seen(name, of_others) for path, name in names.items()}
        for names, of_others in zip(sides, keys[::-1], strict=True)
    ]
    named = _Names(as_seen[0], scans_root), _Names(as_seen[1], files_root)
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


def _as_seen(name: FileName, keys: Container[str]) -> FileName:
    """The name, with its last four digits where the other side has a scan of this very name.

    ``_0000`` is nnU-Net's channel 0 on an image, ``case_0000_0000``, and the scan's own on its label, ``case_0000``.
    """
    return whole if (whole := name.with_channel()).key in keys else name


class _Names:
    """Files with their names, by key, and by the folders in which others look for them."""

    def __init__(self, names: Mapping[Path, FileName], root: Path) -> None:
        paths = list(names)
        self.names = names
        self.order = {path: place for place, path in enumerate(paths)}
        self.by_key: defaultdict[str, list[Path]] = defaultdict(list)
        self.whole = {path: path.absolute().parent.parts for path in paths}
        top = root.absolute().parts
        self.folders = {path: _below(whole, top) for path, whole in self.whole.items()}
        self._in_whole, self._in_below, self._in_ending = _ByFolder(), _ByFolder(), _ByFolder()
        for path, name in self.names.items():
            self.by_key[name.key].append(path)
            self._in_whole.add(self.whole[path], name.key, path)
            self._in_below.add(self.folders[path], name.key, path)
            for ending in _endings(self.whole[path]):
                self._in_ending.add(ending, name.key, path)
        places = Counter(key for key, paths in self.by_key.items() for _ in {self.whole[p] for p in paths})
        self.repeated = {key for key, count in places.items() if count > 1}

    def near(self, whole: tuple[str, ...], below: tuple[str, ...], keys: tuple[str, ...] | None) -> set[Path]:
        """Those with one of the keys (None: any) in a folder that fits another file's, see :func:`_closeness`."""
        found = {*self._in_whole.get(whole, keys), *self._in_below.get(below, keys)}
        if below:
            found.update(self._in_ending.get(below, keys))
        for ending in _endings(whole):
            found.update(self._in_below.get(ending, keys))
        return found


class _ByFolder:
    """Files by folder and key."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, ...], dict[str, list[Path]]] = {}

    def add(self, folder: tuple[str, ...], key: str, path: Path) -> None:
        self._files.setdefault(folder, {}).setdefault(key, []).append(path)

    def get(self, folder: tuple[str, ...], keys: tuple[str, ...] | None) -> Iterator[Path]:
        there = self._files.get(folder, {})
        for key in there if keys is None else keys:
            yield from there.get(key, [])


def _fits(file: Path, scans: _Names, files: _Names) -> list[tuple[tuple[int, int, bool], Path]]:
    """Scans that a file may belong to, with (closeness of the folders, parts that agree, the same description)."""
    name, whole, below = files.names[file], files.whole[file], files.folders[file]
    near = scans.near(whole, below, (name.key, "") if name.key else None)
    if name.key and name.key not in scans.repeated and name.key not in files.repeated:
        near.update(scans.by_key.get(name.key, []))  # the name says enough, wherever they lie
    fits = []
    for scan in sorted(near, key=scans.order.__getitem__):
        other = scans.names[scan]
        if name.contrast and other.contrast and name.contrast != other.contrast:
            continue
        close = _closeness(scans.whole[scan], scans.folders[scan], whole, below)
        fits.append(((*close, name.bare.casefold() == other.bare.casefold()), scan))
    return fits


def _closeness(
    scan_whole: tuple[str, ...], scan_below: tuple[str, ...], file_whole: tuple[str, ...], file_below: tuple[str, ...]
) -> tuple[int, int]:
    """How well two folders fit, each given as a whole and as seen from its root: one, mirrored, or ending alike."""
    if scan_whole == file_whole:
        return 3, 0
    if scan_below == file_below:
        return 2, len(scan_below)
    for below, whole in ((file_below, scan_whole), (scan_below, file_whole)):
        if below and whole[-len(below) :] == below:
            return 1, len(below)
    return 0, 0


def _endings(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All ends of a path: of (a, b, c) these are (a, b, c), (b, c) and (c,)."""
    return (parts[start:] for start in range(len(parts)))


def _below(whole: tuple[str, ...], top: tuple[str, ...]) -> tuple[str, ...]:
    return whole[len(top) :] if whole[: len(top)] == top else whole
