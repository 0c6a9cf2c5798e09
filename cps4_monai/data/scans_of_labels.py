"""The scans that label maps are of: named by their JSON, or found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cps4_monai.data.label_ownership import json_beside
from cps4_monai.scan_names import FileName, find_nifti, pair_files


def scans_of(masks: Sequence[Path], root: Path, images: str | Path | None = None) -> dict[Path, Path]:
    """The scan of each label map: the one its JSON names, or one of its name, in ``images`` or beside it.

    Label maps without a scan, or with several that fit, are left out.
    """
    named = {mask: _sources(mask) for mask in masks}
    told = {mask: Path(scans[0]) for mask, scans in named.items() if images is None and scans}
    scan_of = {mask: scan for mask, scan in told.items() if _exists(scan)}
    rest = [mask for mask in masks if mask not in scan_of]
    folder = root if images is None else Path(images)
    files = find_nifti(folder) if rest else []
    known = set(masks)
    scans = [path for path in files if not FileName.of(path).is_label_map and path not in known]
    pairing = pair_files(scans, folder, rest, root)
    for scan, partners in pairing.partners.items():
        if images is not None:
            scan_of.update(dict.fromkeys(partners, scan))
        else:
            scan_of.update(dict.fromkeys([mask for mask in partners if mask.parent == scan.parent], scan))
    return scan_of


def _sources(mask: Path) -> list[str]:
    """Scans that the JSON of a label map names; of another tool's JSON, nothing but a list of strings is believed."""
    sources = json_beside(mask).get("Sources")
    return sources if isinstance(sources, list) and all(isinstance(name, str) for name in sources) else []


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name that a file could have
        return False
