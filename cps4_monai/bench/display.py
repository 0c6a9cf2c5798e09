"""What a study's user sees: the table of what is left, and a bar for each running job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cps4_monai.bench.plan import Job, StudyPlan, total_estimate
from cps4_monai.bench.runner import Ended, Running
from cps4_monai.run_folder import LOG, STAGE1, STAGE2

METRICS = {"stage1": STAGE1 / LOG, "cell": STAGE2 / LOG}
TAIL_BYTES = 2000


def duration(seconds: float | None) -> str:
    """ "3 min" or "2 h 05 min"; a dash where it is not known."""
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def show_plan(plan: StudyPlan, jobs: Sequence[Job], slots: int, console: Console) -> None:
    """The jobs that are left with what each may take, and folders of earlier settings that stay unused."""
    table = Table(title=f"study {plan.study.name}", title_justify="left")
    for heading in ("job", "folder", "left", "may take"):
        table.add_column(heading, overflow="fold")
    estimates = plan.estimates(jobs)
    for job, seconds in zip(jobs, estimates, strict=True):
        state = ", ".join(job.left) + (" (started)" if job.started else "")
        table.add_row("stage 1" if job.kind == "stage1" else "cell", job.name, state, duration(seconds))
    done = sum(not job.left for job in plan.jobs)
    if jobs:
        console.print(table)
    console.print(
        f"{done} of {len(plan.jobs)} jobs are done, {len(jobs)} to run, {slots} at a time; "
        f"about {duration(total_estimate(estimates, slots))}"
    )
    for job in jobs:
        for folder, changed in job.older.items():
            setting, (before, now) = next(iter(changed.items()))
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            console.print(
                f"{folder.relative_to(plan.runs)} has other settings ({setting} was {before!r}, is {now!r}{more}); "
                f"it is kept and not used, {job.folder.relative_to(plan.runs)} is run"
            )


def last_epoch(metrics: Path) -> int:
    """Epoch of the last line of a ``metrics.csv``; 0 where there is none yet."""
    try:
        with metrics.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        parts = line.split(",")
        if len(parts) > 2 and parts[1].isdigit():
            return int(parts[1])
    return 0


class Display:
    """Bars on a terminal; one line per finished job everywhere.

    Args:
        plan: of the study.
        jobs: those that are to be run.
        console: where to write.
    """

    def __init__(self, plan: StudyPlan, jobs: Sequence[Job], console: Console) -> None:
        self.plan, self.console, self.total = plan, console, len(jobs)
        self.done = 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:g} of {task.total:g}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.overall = self.progress.add_task("jobs", total=self.total)
        self.bars: dict[str, TaskID] = {}

    def watch(self, running: Sequence[Running]) -> None:
        """Moves the bars to the epochs that the running jobs have reached."""
        if not self.console.is_terminal:
            return
        names = {f"{job.kind} {job.name}": job for job in (started.job for started in running)}
        for name in set(self.bars) - set(names):
            self.progress.remove_task(self.bars.pop(name))
        for name, job in names.items():
            if name not in self.bars:
                self.bars[name] = self.progress.add_task(name, total=job.epochs)
            self.progress.update(self.bars[name], completed=last_epoch(job.folder / METRICS[job.kind]))

    def ended(self, result: Ended) -> None:
        """One line for a job that came to its end."""
        self.done += 1
        self.progress.update(self.overall, completed=self.done)
        label = "stage 1" if result.job.kind == "stage1" else "cell"
        text = f"failed: {result.error}" if result.error else f"done in {duration(result.seconds)}"
        self.console.print(f"[{self.done} of {self.total}] {label} {result.job.name}: {text}", markup=False)
