"""nnU-Net's channels outside its own folders: where a number at the end of a name is a channel, and where a patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from cps4_monai.scan_names.file_name import FileName

_NUMBERED = re.compile(r"(.+)_(\d{4})")


def further_channels(paths: Sequence[str | PurePath]) -> dict[PurePath, str]:
    """Files that are a further channel of a scan beside them, with that scan's own name.

    In nnU-Net's image folders the folder says so (:attr:`FileName.channel`). Elsewhere ``A_0001`` is a channel of
    ``A_0000`` beside it where the folder has at least as many scans with an ``_0000`` as different numbers; with fewer,
    the numbers count patients (``case_0000``, ``case_0001``, ...).

    >>> further_channels(["A_0000.nii", "A_0001.nii", "B_0000.nii"])
    {PurePosixPath('A_0001.nii'): 'A'}
    """
    by_folder: dict[PurePath, list[FileName]] = defaultdict(list)
    for path in paths:
        by_folder[PurePath(path).parent].append(FileName.of(path))
    return {path: scan for names in by_folder.values() for path, scan in _beside_each_other(names).items()}


def _beside_each_other(names: Sequence[FileName]) -> Mapping[PurePath, str]:
    first = {name.key for name in names if name.channel == 0}
    matches = {name.path: _NUMBERED.fullmatch(name.scan) for name in names if name.channel is None}
    numbered = {path: match for path, match in matches.items() if match and match[1].casefold() in first}
    different = {match[2] for match in numbered.values()} | {"0000"}
    return {path: match[1] for path, match in numbered.items()} if len(first) >= len(different) else {}
