"""`cps4 bench`: run a study, and report it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cps4_monai.commands.paths import GivenPath

if TYPE_CHECKING:
    from rich.console import Console

    from cps4_monai.bench.plan import Job, StudyPlan
    from cps4_monai.bench.runner import Ended
    from cps4_monai.cluster.address import SchedulerAddress


class StudyGroup(click.Group):
    """``cps4 bench STUDY.yaml -o RUNS`` is ``cps4 bench run STUDY.yaml -o RUNS``."""

    default_command = "run"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not {"-h", "--help"} & set(args):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


@click.group(cls=StudyGroup, subcommand_metavar="STUDY.yaml | report RUNS | archive RUNS")
def bench() -> None:
    """Run a study and report it: cps4 bench STUDY.yaml -o RUNS, then cps4 bench report RUNS.

    \b
    Examples:
      cps4 bench studies/quick.yaml -o runs/quick
      cps4 bench studies/ratios.yaml -o runs/studies --datalist data/splits.json --dry-run
      cps4 bench report runs/quick -o report
      cps4 bench archive runs/quick -o quick.tar.xz
    Options of each: cps4 bench run --help, and so on
    """


@bench.command()
@click.argument("study_file", metavar="STUDY", type=GivenPath())
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder of the runs.")
@click.option("--datalist", type=GivenPath(), help="Datalist JSON; not for a study with a phantom.")
@click.option("--dataset-dir", type=GivenPath(), help="Folder of the scans; default: the datalist's.")
@click.option("-j", "--jobs", default="auto", show_default=True, help="Jobs at a time: a number, or auto.")
@click.option(
    "--only",
    metavar="PATTERN",
    multiple=True,
    help="Cells to run, e.g. 'cps4-*' or seed0; their stage 1 comes along. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what is left and how long it may take.")
@click.option("--device", help="auto, cpu, cuda:N or mps; default: as the configs say, auto.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Jobs on workers of Dask: tcp://HOST:PORT, local:N or slurm:FILE.yaml (extra cluster).",
)
def run(
    study_file: Path,
    output: Path,
    datalist: Path | None,
    dataset_dir: Path | None,
    jobs: str,
    only: tuple[str, ...],
    dry_run: bool,
    device: str | None,
    scheduler: str | None,
) -> None:
    """Run what is left of STUDY; started again, it goes on where it stopped."""
    from rich.console import Console

    from cps4_monai.bench.display import show_plan
    from cps4_monai.bench.encoders import check_encoders
    from cps4_monai.bench.plan import check_patterns
    from cps4_monai.bench.runner import auto_jobs
    from cps4_monai.bench.start import start_study
    from cps4_monai.cluster.address import SchedulerAddress

    try:
        address = None if scheduler is None else SchedulerAddress.parse(scheduler)
        plan = start_study(study_file, output, datalist=datalist, dataset_dir=dataset_dir, device=device)
        check_patterns(plan.cells, only)
        left = plan.open_jobs(*only)
        most = auto_jobs(device) if address is None else max(1, len(left))  # a cluster says itself how many
        slots = most if jobs == "auto" else _count(jobs)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    console = Console(soft_wrap=True)
    show_plan(plan, left, slots, console)
    try:
        if address is None or address.kind == "local":  # workers elsewhere have a cache of their own
            check_encoders(left)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if dry_run:
        return
    try:
        results = _work_off(plan, left, slots, address, console)
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command goes on in {output}", err=True)
        raise click.Abort from None
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    failed = [result for result in results if result.error]
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(results)} jobs failed; the same command runs them again, from their last epoch"
        )
    click.echo(f"runs: {output}")


@bench.command()
@click.argument("runs", type=GivenPath())
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder for page and pictures.")
@click.option(
    "--section",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="Choose on validation; report test once.",
)
@click.option("--study", "studies", multiple=True, help="Name of a study in RUNS; repeatable; default: all.")
@click.option("--baseline", help="Method to compare with; default: the study's.")
@click.option("--title", default="Studies", show_default=True)
@click.option("--attribution", help="Source and licence of the scans; default: as the datalist says.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Worst cases and attention maps.")
def report(
    runs: Path,
    output: Path,
    section: str,
    studies: tuple[str, ...],
    baseline: str | None,
    title: str,
    attribution: str | None,
    pictures: bool,
) -> None:
    """Compare the methods of the studies in RUNS: OUTPUT/studies.html, and studies.md with its pictures."""
    from cps4_monai.bench.report import write_study_report

    try:
        made = write_study_report(
            runs.resolve(),
            output,
            section=section,
            studies=studies,
            baseline=baseline,
            title=title,
            attribution=attribution,
            pictures=pictures,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for results in made.results:
        if results.missing:
            click.echo(f"study {results.manifest['study']}: {len(results.missing)} cells are not done yet", err=True)
    click.echo(f"report: {made.html}")
    click.echo(f"report: {made.markdown}")


@bench.command()
@click.argument("runs", type=GivenPath())
@click.option("-o", "--output", type=GivenPath(), required=True, help="File to write, *.tar.xz.")
@click.option("--study", "studies", multiple=True, help="Name of a study in RUNS; repeatable; default: all.")
@click.option("--only", metavar="PATTERN", multiple=True, help="Cells to keep, as for `cps4 bench run`; repeatable.")
def archive(runs: Path, output: Path, studies: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Put the results of RUNS in one file, without weights, predictions and places of this machine.

    Unpacked, it is reported and gone on with like RUNS itself:

    \b
      mkdir runs && tar -xf quick.tar.xz -C runs
      cps4 bench report runs -o report
    """
    from cps4_monai.bench.archive import archive_results

    try:
        kept, left = archive_results(runs, output, studies, only)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{output}: {kept} finished jobs; {left} are not done")


def _work_off(
    plan: StudyPlan, left: Sequence[Job], slots: int, address: SchedulerAddress | None, console: Console
) -> list[Ended]:
    from cps4_monai.bench.display import Display
    from cps4_monai.bench.runner import Runner

    manifest = plan.write()
    written = manifest.read_bytes()
    display = Display(plan, left, console)
    told = (left, slots, display.watch, display.ended)
    with display.progress:
        results = Runner(*told).run() if address is None else _on_cluster(address, *told)
    if any(result.error for result in results) and manifest.read_bytes() == written:  # not that of a later command
        plan.write()  # without the folders that another command took
    return results


def _on_cluster(address: SchedulerAddress, *told: Any) -> list[Ended]:
    from cps4_monai.bench.on_cluster import cluster_runner

    with cluster_runner(address, *told) as runner:
        return runner.run()


def _count(jobs: str) -> int:
    if not jobs.isdigit() or int(jobs) < 1:
        raise ValueError(f"--jobs is {jobs!r}; expected a number from 1 on, or auto")
    return int(jobs)
