"""From a study file and a data set to a plan; a study on a phantom makes its data first."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from cps4_monai.bench.folders import write_json
from cps4_monai.bench.matrix import Data
from cps4_monai.bench.plan import StudyPlan, make_plan
from cps4_monai.bench.study import Study, StudyError, load_study
from cps4_monai.data.phantom import write_phantom_dataset

STATED_BY_THE_DATALIST = ("subjects", "seed", "labeled", "val", "test")  # of a phantom's arguments


def start_study(
    study_file: Path,
    runs: Path,
    *,
    datalist: Path | None = None,
    dataset_dir: Path | None = None,
    device: str | None = None,
) -> StudyPlan:
    """Plan of a study in its folder.

    Args:
        study_file: YAML.
        runs: folder of the runs; several studies may share it, and then share cells with equal settings.
        datalist: JSON; None: the study's phantom.
        dataset_dir: folder of the scans; None: the datalist's.
        device: see :func:`cps4_monai.bench.plan.make_plan`.

    Raises:
        StudyError: neither a datalist nor a phantom, or both, and as :func:`cps4_monai.bench.study.load_study`.
        ValueError: the datalist cannot be used, or a setting is unknown.
    """
    study = load_study(study_file)
    if (datalist is None) == (study.phantom is None):
        have = "a phantom and --datalist" if datalist is not None else "neither a phantom nor --datalist"
        raise StudyError(f"{study_file}: found {have}; expected exactly one of the two as the data of the study")
    made_with = None
    if datalist is None:
        datalist = make_phantom(study, runs) / "datalist.json"
        made_with = _pixels(study.phantom or {})
    plan = make_plan(study, Data.read(datalist, dataset_dir, made_with), runs, device)
    # Places on this machine are nobody else's: the report says which study and which list, not where they lie.
    data = "" if study.phantom is not None else f" --datalist {shlex.quote(datalist.name)}"
    data += "" if dataset_dir is None else " --dataset-dir SCANS"
    data += "" if device is None else f" --device {device}"
    place = shlex.quote(f"{study_file.resolve().parent.name}/{study_file.name}")
    plan.command = f"cps4 bench {place} -o RUNS{data}"
    return plan


def make_phantom(study: Study, runs: Path) -> Path:
    """Folder of the study's phantom below ``runs``; written once, by one process at a time.

    Raises:
        StudyError: unknown arguments, or a phantom of other arguments is there.
        FileExistsError: the folder holds other scans.
    """
    arguments: Mapping[str, Any] = {"seed": 0, **(study.phantom or {})}
    known = set(inspect.signature(write_phantom_dataset).parameters) - {"out", "on_subject"}
    unknown = sorted(set(arguments) - known)
    if unknown or "subjects" not in arguments:
        raise StudyError(
            f"study {study.name}: 'phantom' has {sorted(arguments)}; expected 'subjects' and some of {sorted(known)}"
        )
    folder = runs / f"phantom-{study.name}"
    record = folder / "phantom.json"
    if not record.is_file():
        runs.mkdir(parents=True, exist_ok=True)
        with FileLock(runs / f".{folder.name}.lock"):
            if not record.is_file():  # nor made by another process meanwhile
                write_phantom_dataset(folder, **arguments)
                write_json(record, dict(arguments))
    before = json.loads(record.read_text(encoding="utf-8"))
    if before != dict(arguments):
        raise StudyError(
            f"{folder}: holds a phantom made with {before}, the study says {dict(arguments)}; choose another "
            "folder for the runs, or delete this one"
        )
    return folder


def _pixels(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What makes other pixels of the same datalist: arguments that do not stand in it and are not the defaults."""
    parameters = inspect.signature(write_phantom_dataset).parameters
    own = {name: value for name, value in arguments.items() if name not in STATED_BY_THE_DATALIST}
    return {name: value for name, value in own.items() if value != parameters[name].default}
