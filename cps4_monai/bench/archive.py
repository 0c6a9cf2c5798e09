"""The results of studies in one archive: all that a report reads and a later start needs to know, and nothing heavy.

Weights, predictions and caches stay behind, and so do the places of the machine: what is left of a job is some tens of
kilobytes, which can be published, or carried to the machine on which the study goes on.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from cps4_monai.atomic_file import write_atomically
from cps4_monai.bench.folders import DONE, SETTINGS, TASK, json_text, read_json_or_empty
from cps4_monai.bench.plan import TRAINING, check_patterns, is_chosen
from cps4_monai.bench.results import find_studies, starts_of
from cps4_monai.evaluation.folder import FILES
from cps4_monai.file_hash import by_content
from cps4_monai.run_folder import RECORD, STAGE2

SUFFIX = ".tar.xz"
_QUOTED_PLACE = re.compile(r'(?<=")(?:/|[A-Za-z]:\\)[^"]+(?=")')
PLACES = ("datalist", "dataset_dir")  # of a task's places; names, not paths, are kept of them
TABLES = ("*/*.csv", "*/argmax/*.csv")  # of the trainings and of the sections


def archive_results(
    runs: Path, archive: Path, studies: Sequence[str] = (), only: Sequence[str] = ()
) -> tuple[int, int]:
    """Writes the results of finished jobs into an archive; the same runs give the same bytes.

    Unpacked (``tar -xf ARCHIVE -C RUNS``) it is a folder of runs: ``cps4 bench report`` reads it, and ``cps4 bench
    STUDY.yaml -o RUNS`` passes over what is done there. A stage 1 is trained again where a cell that is left needs its
    weights.

    Args:
        runs: folder of the runs.
        archive: file to write; its name ends in ``.tar.xz``.
        studies: names; none: all in the folder.
        only: cells as :func:`cps4_monai.bench.plan.is_chosen` takes them, with their stage 1; none: all.

    Returns:
        Number of jobs in the archive, and of those that a study waits for. A job that two studies share is in the
        archive once one of them has it done, and is waited for as long as the other has not.

    Raises:
        ValueError: another ending, no study there, none of a given name, a pattern that no cell matches, or a job that
            is done without a record of its training.
    """
    if not archive.name.endswith(SUFFIX):
        raise ValueError(f"{archive.name}: expected a name that ends in {SUFFIX}")
    manifests = find_studies(runs, studies)
    files: dict[str, bytes] = {}
    settings: dict[str, dict[str, Any]] = {}
    kept, left = 0, 0
    for folder, asked in sorted(_folders(manifests, only).items()):
        done = set(read_json_or_empty(runs / folder / DONE).get("seconds", {}))
        finished = [{TRAINING, *sections} <= done for sections in asked]
        left += not all(finished)
        if not any(finished):
            continue
        kept += 1
        settings[folder] = _settings(runs / folder)
        files.update((f"{folder}/{name}", content) for name, content in _files_of(runs / folder))
    files |= {f"{one['study']}.study.json": json_text(_named(_signed(one, settings))).encode() for one in manifests}
    write_atomically(archive, _packed(files))
    return kept, left


def _folders(manifests: Sequence[Mapping[str, Any]], only: Sequence[str]) -> dict[str, list[list[str]]]:
    """Folder of each job -> the sections that it is scored on, for each cell of a study that it is of."""
    check_patterns([entry["name"] for manifest in manifests for entry in manifest["cells"]], only)
    folders: dict[str, list[list[str]]] = {}
    for manifest in manifests:
        for entry in manifest["cells"]:
            if only and not is_chosen(entry["name"], only):
                continue
            for folder in (entry["stage1"], entry["folder"]):
                if folder is not None:
                    folders.setdefault(folder, []).append(manifest["evaluate"])
    return folders


def _signed(manifest: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A manifest with the settings of its jobs in the archive, by folder.

    Another archive may have other trainings in folders of these names, and be unpacked over them. What an archive said
    from which these runs came stands.
    """
    folders = {entry[kind] for entry in manifest["cells"] for kind in ("folder", "stage1")}
    own = {folder: settings[folder] for folder in sorted(folders & settings.keys())}
    return {**manifest, "settings": {**own, **manifest.get("settings", {})}}


def _files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    yield DONE, (folder / DONE).read_bytes()
    yield SETTINGS, json_text(_settings(folder)).encode()
    yield TASK, json_text(_without_places(read_json_or_empty(folder / TASK))).encode()
    records = {*folder.glob(f"*/{RECORD}"), *([folder / STAGE2 / RECORD] if folder.parent.name == "cells" else [])}
    for record in sorted(records):
        starts = starts_of(record)
        own = [{key: value for key, value in start.items() if key != "command"} for start in starts]
        yield record.relative_to(folder).as_posix(), json_text({"starts": _named(own)}).encode()
    places = [
        folder.resolve(),
        read_json_or_empty(folder / TASK).get("places", {}).get("dataset_dir", folder.resolve()),
    ]
    for pattern in TABLES:
        for table in sorted(folder.glob(pattern)):
            content = table.read_bytes()
            for place in places if table.name == FILES["failures"] else ():
                content = content.replace(f"{place}{os.sep}".encode(), b"")
            yield table.relative_to(folder).as_posix(), content


def _settings(folder: Path) -> dict[str, Any]:
    """Settings as studies record them now; in older records a folder stands with its place, which may be gone."""
    recorded = read_json_or_empty(folder / SETTINGS)
    placed = {key: value for key, value in recorded.items() if _is_place(value)}
    return {**recorded, **_named(by_content(placed))}


def _without_places(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task that names no folder of the machine, nor the command, which is made of them."""
    kept = {key: value for key, value in task.items() if key != "command"}
    kept["places"] = {key: value for key, value in task.get("places", {}).items() if key in PLACES}
    return dict(_named(kept))


def _named(value: Any) -> Any:
    """JSON with the last part of each absolute path in its place, in keys and within texts (quoted there), too."""
    if isinstance(value, Mapping):
        return {_named(key): _named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    if _is_place(value):
        return PurePath(value).name
    return _QUOTED_PLACE.sub(lambda found: PurePath(found[0]).name, value) if isinstance(value, str) else value


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and PurePath(value).is_absolute()


def _packed(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files, compressed: neither time nor user in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
