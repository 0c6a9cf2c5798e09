"""What a study has to run, in which order, and what of it is done."""

from __future__ import annotations

import fnmatch
import shlex
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cps4_monai.bench.budget import budget_table, check_equal_budgets
from cps4_monai.bench.folders import DONE, PLANNED, SETTINGS, TASK, FolderShelf, read_settings, write_json
from cps4_monai.bench.matrix import STAGE1, STAGE2, Cell, Data, make_cells
from cps4_monai.bench.study import Study, StudyError
from cps4_monai.fingerprint import node_of
from cps4_monai.run_folder import STAGE1_WEIGHTS, STAGE2_WEIGHTS

WEIGHTS = {"stage1": STAGE1_WEIGHTS, "cell": STAGE2_WEIGHTS}
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
            archive (:mod:`cps4_monai.bench.archive`) have none.
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
        """Whether it was trained and its weights are gone."""
        return TRAINING in self.seconds and not (self.folder / WEIGHTS[self.kind]).is_file()

    @property
    def seconds(self) -> dict[str, float]:
        """Step -> seconds of the steps that are done."""
        return dict(read_settings(self.folder / DONE).get("seconds", {}))

    @property
    def left(self) -> tuple[str, ...]:
        """Steps that are left: "training", "validation", "test"."""
        done = {} if self.again and self.without_weights else self.seconds
        return tuple(step for step in (TRAINING, *self.sections) if step not in done)

    @property
    def started(self) -> bool:
        """Whether a process has worked on it."""
        return (self.folder / TASK).is_file()

    def prepare(self) -> None:
        """Writes down what is to be run, before it is."""
        if self.again and self.without_weights:
            (self.folder / DONE).unlink()
        write_json(self.folder / SETTINGS, self.settings)
        write_json(self.folder / "overlay.json", self.task["settings"])
        write_json(self.folder / TASK, self.task)
        write_json(self.folder / PLANNED, self.config)


@dataclass
class Plan:
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
                job.after.again = job.after.without_weights and bool(job.after.left or TRAINING in job.left)
        ids = {id(needed) for job in wanted for needed in (job.after, job)}
        return [job for job in self.jobs if job.left and id(job) in ids]

    def matching(self, *only: str) -> list[str]:
        """Names of the cells that one of the patterns, or a part of the name, chooses."""
        return [name for name in self.cells if is_chosen(name, only)]

    def estimate(self, job: Job) -> float | None:
        """Seconds that a job may still take, from the done ones like it; None where nothing is known yet."""
        total = 0.0
        for step in job.left:
            known = [
                (other.method == job.method, other.seconds[step])
                for other in self.jobs
                if other.kind == job.kind and step in other.seconds
            ]
            alike = [seconds for same, seconds in known if same] or [seconds for _, seconds in known]
            if not alike:
                return None
            total += statistics.mean(alike)
        return total

    def write(self) -> Path:
        """Writes the manifest that the report reads; returns its path."""
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
            "cells": self.entries,
        }
        path = self.runs / f"{self.study.name}.study.json"
        write_json(path, content)
        return path


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


def make_plan(study: Study, data: Data, runs: Path, device: str | None = None) -> Plan:
    """Cells to jobs; stage 1 is one job for all cells with equal stage-1 settings.

    Args:
        study: what to compare.
        data: what it runs on.
        runs: folder of the study's runs.
        device: "auto", "cpu", "cuda:N" or "mps"; None: as the configs say.

    Raises:
        StudyError: unequal budgets, two cells that are the same training, and as
            :func:`cps4_monai.bench.matrix.make_cells`.
    """
    cells = make_cells(study, data)
    check_equal_budgets(cells, study.may_differ)
    runs = runs.resolve()
    shelves = {kind: FolderShelf(runs / kind) for kind in ("stage1", "cells")}
    places: dict[str, Any] = {"datalist": str(data.datalist), "dataset_dir": str(data.dataset_dir)}
    places |= {"cache_dir": str(runs / "cache"), "show_progress": False}
    if device is not None:
        places["device_name"] = device
    plan = Plan(study, runs, [], {}, budget=budget_table(cells))
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
        plan.entries.append(_entry(cell, job, runs))
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


def _entry(cell: Cell, job: Job, runs: Path) -> dict[str, Any]:
    return {
        "name": cell.name,
        "method": cell.method,
        "title": cell.title,
        "share": cell.share,
        "seed": cell.seed,
        "labeled_subjects": cell.settings["labeled_subjects"],
        "overlays": list(cell.overlays),
        "settings": {k: v for k, v in cell.settings.items() if k not in ("seed", "labeled_share", "labeled_subjects")},
        "folder": str(job.folder.relative_to(runs)),
        "stage1": None if job.after is None else str(job.after.folder.relative_to(runs)),
    }


def total_estimate(plan: Plan, jobs: Sequence[Job], slots: int) -> float | None:
    """Seconds until all of these jobs are done, or None where no job like one of them has been run yet."""
    estimates = [plan.estimate(job) for job in jobs]
    if any(value is None for value in estimates):
        return None
    return sum(value for value in estimates if value is not None) / max(1, min(slots, len(jobs) or 1))
