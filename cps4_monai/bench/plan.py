"""What a study has to run, in which order, and what of it is done."""

from __future__ import annotations

import fnmatch
import shlex
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cps4_monai.bench.budget import budget_table, check_equal_budgets
from cps4_monai.bench.folders import (
    DONE,
    PLANNED,
    SETTINGS,
    TASK,
    FolderShelf,
    as_recorded,
    preparing,
    read_json_or_empty,
    settings_digest,
    write_json,
)
from cps4_monai.bench.matrix import STAGE1, STAGE2, Cell, Data, make_cells
from cps4_monai.bench.study import Study, StudyError
from cps4_monai.data.labeled_subsets import has_labels
from cps4_monai.file_hash import known_sha256
from cps4_monai.fingerprint import differences, node_of
from cps4_monai.run_folder import STAGE1_WEIGHTS, STAGE2_WEIGHTS

WEIGHTS = {"stage1": STAGE1_WEIGHTS, "cell": STAGE2_WEIGHTS}
OWN_SHA256 = {"stage1": "stage1_sha256", "cell": "weights_sha256"}  # in `done.json`: of these weights
TRAINING = "training"
ATTRIBUTION = ("dataset", "license")  # of a datalist; a report states them


@dataclass
class Job:
    """One process: stage 1, shared by cells, or a cell; trains, then scores each section.

    Attributes:
        name: of its folder.
        kind: "stage1" or "cell".
        folder: where everything of it goes.
        settings: that decide its result.
        task: what the process is told, see :mod:`cps4_monai.bench.task`.
        sections: to predict and score.
        after: the job whose result it reads.
        method: of the cell that brought it in.
        epochs: of its training.
        config: the merged config, as it was when the study was planned.
        older: folders of the same name with other settings, and what is different in them.
        again: all of it is run again, because what is left needs weights that are gone: results that came out of an
            archive (:mod:`cps4_monai.bench.archive`) have none, or those of a training that was under way there.
    """

    name: str
    kind: str
    folder: Path
    settings: Mapping[str, Any]
    task: dict[str, Any]
    sections: tuple[str, ...]
    after: Job | None
    method: str
    epochs: int
    config: Mapping[str, Any] = field(default_factory=dict)
    older: dict[Path, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    again: bool = False

    @property
    def without_weights(self) -> bool:
        """Whether it was trained and its weights are gone, or are others than those that the training ended with."""
        if TRAINING not in self.seconds:
            return False
        weights, recorded = self.folder / WEIGHTS[self.kind], self._recorded_sha256
        return not weights.is_file() or (recorded is not None and known_sha256(weights) != recorded)

    @property
    def _recorded_sha256(self) -> str | None:
        """Hash of the weights that the training ended with; None of a cell of versions that did not record it."""
        own: str | None = read_json_or_empty(self.folder / DONE).get(OWN_SHA256[self.kind])
        return own

    @property
    def seconds(self) -> dict[str, float]:
        """Step -> seconds of the steps that are done."""
        return dict(read_json_or_empty(self.folder / DONE).get("seconds", {}))

    @property
    def left(self) -> tuple[str, ...]:
        """Steps that are left: "training", "validation", "test"."""
        done = {} if self.again and self.without_weights else self.seconds
        return tuple(step for step in (TRAINING, *self.sections) if step not in done)

    @property
    def started(self) -> bool:
        """Whether a process has worked on it."""
        return (self.folder / TASK).is_file()

    @property
    def taken(self) -> dict[str, tuple[Any, Any]]:
        """What is different in the training that another command began in the folder after this one was planned."""
        record = self.folder / SETTINGS
        return (
            differences(read_json_or_empty(record), as_recorded(self.settings), self.config) if record.is_file() else {}
        )

    def prepare(self) -> None:
        """Writes down what is to be run, before it is; from then on the folder is this training's.

        Raises:
            StudyError: the folder, or that of its stage 1, has become another training's; nothing is written.
        """
        with preparing(self.folder):
            for job in (self.after, self):
                if job is not None and (changed := job.taken):
                    raise StudyError(_taken(job.folder, changed))
            if self.again and self.without_weights:
                (self.folder / DONE).unlink()
            write_json(self.folder / SETTINGS, self.settings)
            write_json(self.folder / "overlay.json", self.task["settings"])
            write_json(self.folder / TASK, {**self.task, "settings_sha256": settings_digest(self.settings)})
            write_json(self.folder / PLANNED, self.config)


@dataclass
class StudyPlan:
    """All jobs of a study, stage 1 before the cells that need it."""

    study: Study
    runs: Path
    jobs: list[Job]
    cells: dict[str, Job]
    budget: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    command: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def open_jobs(self, *only: str) -> list[Job]:
        """Jobs with something left, in order.

        Args:
            *only: patterns (``cps4*``) or parts of the names of the cells to run, all where there are none; their
                stage 1 comes along, to be trained again where its weights are gone.
        """
        wanted = [self.cells[name] for name in (self.matching(*only) if only else self.cells)]
        for job in wanted:
            job.again = bool(job.left) and job.without_weights
            if job.after is not None:
                job.after.again = bool(job.after.left or TRAINING in job.left) and job.after.without_weights
        ids = {id(needed) for job in wanted for needed in (job.after, job)}
        return [job for job in self.jobs if job.left and id(job) in ids]

    def matching(self, *only: str) -> list[str]:
        """Names of the cells that one of the patterns, or a part of the name, chooses."""
        return [name for name in self.cells if is_chosen(name, only)]

    def estimates(self, jobs: Sequence[Job]) -> list[float | None]:
        """Seconds that each job may still take, from the done ones like it; None where nothing is known yet."""
        known: defaultdict[tuple[str, str | None, str], list[float]] = defaultdict(list)
        for other in self.jobs:
            for step, seconds in other.seconds.items():
                known[other.kind, other.method, step].append(seconds)
                known[other.kind, None, step].append(seconds)  # of any method
        means = {alike: statistics.mean(values) for alike, values in known.items()}
        return [_estimate(job, means) for job in jobs]

    def write(self) -> Path:
        """Writes the manifest that the report reads; returns its path.

        A job whose folder has become another training's stands with the folder that it will get when it is planned
        again: no report takes the result of another training for its own.
        """
        content = {
            "study": self.study.name,
            "command": self.command,
            "description": self.study.description,
            "baseline": self.study.baseline,
            "gap": self.study.gap,
            "may_differ": list(self.study.may_differ),
            "rotate_labeled": sorted(self.study.rotate_labeled),
            "evaluate": list(self.study.evaluate),
            "data": dict(self.data),
            "budget": self.budget,
            "cells": [{**entry, **self._folders(self.cells[entry["name"]])} for entry in self.entries],
        }
        path = self.runs / f"{self.study.name}.study.json"
        write_json(path, content)
        return path

    def _folders(self, cell: Job) -> dict[str, str | None]:
        """Where the results of a cell and of its stage 1 are, or will be."""
        places: list[str | None] = []
        for job in (cell, cell.after):
            folder = None if job is None else job.folder
            if job is not None and job.taken:
                folder = FolderShelf(job.folder.parent).place(job.task["cell"], job.settings, job.config)
            places.append(None if folder is None else str(folder.relative_to(self.runs)))
        return {"folder": places[0], "stage1": places[1]}


def is_chosen(cell: str, only: Sequence[str]) -> bool:
    """Whether one of the patterns, or a part of the cell's name, chooses it."""
    return any(fnmatch.fnmatch(cell, one) or one in cell for one in only)


def check_patterns(cells: Collection[str], only: Sequence[str]) -> None:
    """Refuses patterns that choose none of the cells.

    Raises:
        ValueError: such a pattern.
    """
    for pattern in only:
        if not any(is_chosen(name, [pattern]) for name in cells):
            raise ValueError(f"no cell matches --only {pattern!r}; the cells are {', '.join(cells)}")


def make_plan(study: Study, data: Data, runs: Path, device: str | None = None) -> StudyPlan:
    """Cells to jobs; stage 1 is one job for all cells with equal stage-1 settings.

    Args:
        study: what to compare.
        data: what it runs on.
        runs: folder of the study's runs.
        device: "auto", "cpu", "cuda:N" or "mps"; None: as the configs say.

    Raises:
        StudyError: a section to score on without a labeled scan, unequal budgets, two cells that are the same training,
            and as :func:`cps4_monai.bench.matrix.make_cells`.
    """
    for section in study.evaluate:
        if not has_labels(data.content, section):
            raise StudyError(
                f"{data.datalist}: {section!r} has no labeled scan, which study {study.name} scores; expected some: "
                "take another datalist, or leave the section out of 'evaluate'"
            )
    cells = make_cells(study, data)
    check_equal_budgets(cells, study.may_differ)
    runs = runs.resolve()
    shelves = {kind: FolderShelf(runs / kind) for kind in ("stage1", "cells")}
    places: dict[str, Any] = {"datalist": str(data.datalist), "dataset_dir": str(data.dataset_dir)}
    places |= {"cache_dir": str(runs / "cache"), "show_progress": False}
    if device is not None:
        places["device_name"] = device
    plan = StudyPlan(study, runs, [], {}, budget=budget_table(cells))
    plan.data = {key: data.content[key] for key in ATTRIBUTION if data.content.get(key)}
    by_folder: dict[Path, Job] = {}

    def job_of(cell: Cell, kind: str, settings: Mapping[str, Any], after: Job | None) -> Job:
        shelf = shelves["stage1" if kind == "stage1" else "cells"]
        older = shelf.older(cell.name, settings, cell.config)
        folder = shelf.place(cell.name, settings, cell.config)
        if folder not in by_folder:
            job = Job(
                name=folder.name,
                kind=kind,
                folder=folder,
                settings=settings,
                task=_task(cell, kind, folder, places, after),
                sections=study.evaluate,
                after=after,
                method=cell.method,
                epochs=int(node_of(cell.config, "stage1#max_epochs" if kind == "stage1" else "max_epochs")),
                config=cell.config,
                older=older,
            )
            by_folder[folder] = job
            plan.jobs.append(job)
        return by_folder[folder]

    for cell in cells:
        stage1 = None if cell.stage1 is None else job_of(cell, "stage1", cell.stage1, None)
        job = job_of(cell, "cell", cell.stage2, stage1)
        if (other := job.task["cell"]) != cell.name:
            raise StudyError(
                f"study {study.name}: the cells {other} and {cell.name} are one training, all settings that reach it "
                "being equal; take one out, or correct the setting in which they were to differ"
            )
        plan.cells[cell.name] = job
        plan.entries.append(_entry(cell))
    return plan


def _task(cell: Cell, kind: str, folder: Path, places: Mapping[str, Any], after: Job | None) -> dict[str, Any]:
    own = {**places, "output_dir": str(folder)}
    if after is not None:
        own["stage1_checkpoint"] = str(after.folder / STAGE1_WEIGHTS)
    run_id = STAGE1 if kind == "stage1" else STAGE2
    command = ["cps4", "train", "stage1" if kind == "stage1" else "stage2", "--datalist", str(own["datalist"])]
    command += ["--dataset-dir", str(own["dataset_dir"]), "-o", str(folder)]
    for overlay in (*cell.overlays, str(folder / "overlay.json")):
        command += ["--overlay", overlay]
    command += ["--set", f"cache_dir={own['cache_dir']}"]
    if after is not None:
        command += ["--set", f"stage1_checkpoint={own['stage1_checkpoint']}"]
    return {
        "kind": kind,
        "cell": cell.name,
        "run_id": run_id,
        "overlays": list(cell.overlays),
        "settings": dict(cell.settings),
        "places": own,
        "command": shlex.join(command),
    }


def _entry(cell: Cell) -> dict[str, Any]:
    return {
        "name": cell.name,
        "method": cell.method,
        "title": cell.title,
        "share": cell.share,
        "seed": cell.seed,
        "labeled_subjects": cell.settings["labeled_subjects"],
        "overlays": list(cell.overlays),
        "settings": {k: v for k, v in cell.settings.items() if k not in ("seed", "labeled_share", "labeled_subjects")},
    }


def _taken(folder: Path, changed: Mapping[str, tuple[Any, Any]]) -> str:
    setting, (found, planned) = next(iter(changed.items()))
    more = f" ({len(changed) - 1} more differ)" if len(changed) > 1 else ""
    return (
        f"{folder}: holds another training, which another command began there after this one was planned: "
        f"{setting} is {found!r}, planned {planned!r}{more}; start this command again, it plans a folder of its own"
    )


def _estimate(job: Job, means: Mapping[tuple[str, str | None, str], float]) -> float | None:
    total = 0.0
    for step in job.left:
        mean = means.get((job.kind, job.method, step), means.get((job.kind, None, step)))
        if mean is None:
            return None
        total += mean
    return total


def total_estimate(estimates: Sequence[float | None], slots: int) -> float | None:
    """Seconds until all jobs with these estimates are done, or None where one of them is not known."""
    known = [value for value in estimates if value is not None]
    return sum(known) / max(1, min(slots, len(known))) if len(known) == len(estimates) else None
