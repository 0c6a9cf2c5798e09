"""The file of a datalist that is made here: one entry a line, and never in the place of one that a person edited."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.datalist import Datalist, DatalistError, check_leaks, load_datalist
from cps4_monai.data.entries import SIDES
from cps4_monai.data.scan_folder import Scan
from cps4_monai.encoding import json_bytes
from cps4_monai.scan_names import patient_of, relative_path

_DIGEST = "sha256"  # of all else in a datalist, so that one which a person edited is never replaced


def content_of(
    scans: Sequence[Scan],
    sides: Mapping[str, str],
    labeled: set[str],
    subsets: Mapping[str, list[str]],
    classes: Mapping[str, Sequence[int]],
    folder: Path,
) -> dict[str, Any]:
    """What the file says of scans: labeled subsets and sides, paths relative to its folder.

    Args:
        scans: of the data set.
        sides: patient -> side.
        labeled: patients of training whose labels count.
        subsets: share in percent -> patients of training that count at it.
        classes: subject -> codes that its label map shows.
        folder: of the file.
    """

    def relative(path: Path) -> str:
        seen = relative_path(path, folder)
        if not (folder / seen).exists():  # a step up that a symbolic link leads elsewhere
            seen = relative_path(path.parent.resolve() / path.name, folder.resolve())
        return seen.as_posix()

    content: dict[str, Any] = {"name": "", "description": "", "unannotated": [], "structures": {}}
    with_label = [(scan.patient, scan.subject) for scan in scans if scan.label is not None]
    patients = {share: set(subsets[share]) for share in sorted(subsets, key=float)}
    content["subsets"] = {
        share: sorted(subject for patient, subject in with_label if patient in chosen)
        for share, chosen in patients.items()
    }
    for side in SIDES:
        content[side] = []
        for scan in (s for s in scans if sides[s.patient] == side):
            entry: dict[str, Any] = {"image": relative(scan.image), "subject": scan.subject}
            if scan.patient != patient_of(scan.subject):
                entry["patient"] = scan.patient
            if scan.label is not None:
                entry["label"] = relative(scan.label)
                entry["classes"] = list(classes[scan.subject])
                if side == "training":
                    entry["labeled"] = scan.patient in labeled
            elif side != "training":
                continue
            content[side].append(entry)
    return content


def write_checked(content: Mapping[str, Any], out: Path, check_content: bool) -> Datalist:
    """Writes beside and renames once the datalist loads and shows no leak.

    Args:
        content: of the datalist; the digest by which this file is known again is added.
        out: JSON file; where there is one, it has to be as it was made here.
        check_content: compare the voxels of all scans, too.

    Returns:
        The datalist as read back.

    Raises:
        FileExistsError: ``out`` is a file that was not made here, or was edited since.
        DatalistError, LeakError: the content is no datalist, or leaks; nothing is written.
    """
    if out.exists() and not _is_as_made(out):
        raise FileExistsError(
            f"{out} exists and is no datalist made by this command, or was edited since; expected a new file: choose "
            "another name, or delete it"
        )
    checked: list[Datalist] = []

    def write(beside: Path) -> None:
        beside.write_text(_lines({**content, _DIGEST: _digest_of(content)}), encoding="utf-8")
        try:
            checked.append(load_datalist(beside, dataset_dir=out.parent))
        except DatalistError as error:
            raise DatalistError(str(error).replace(str(beside), str(out))) from error
        if check_content:
            check_leaks(checked[0])

    write_atomically(out, write)
    return replace(checked[0], name=content["name"])


def _is_as_made(path: Path) -> bool:
    """Whether a file is a datalist that was written here, with nothing changed in it."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and content.pop(_DIGEST, None) == _digest_of(content)


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(content)).hexdigest()


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with one entry per line, so that it can be read and compared."""
    parts = []
    for key, value in content.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner = ",\n".join(f"  {json.dumps(entry)}" for entry in value)
            parts.append(f" {json.dumps(key)}: [\n{inner}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
