"""`cps4 segment`: new scans in, label maps, pictures, tables and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cps4_monai.commands.paths import GivenPath
from cps4_monai.commands.spacing import parse_spacing

if TYPE_CHECKING:
    from cps4_monai.inference.batch import SegmentationRun

SHOWN = 5


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=GivenPath(), metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=GivenPath(file_okay=False),
    help="Folder for all results; subfolders of the inputs are mirrored.",
)
@click.option(
    "-w",
    "--weights",
    type=GivenPath(),
    help="Bundle folder or zip ('cps4 export'), or a training's folder; default: the bundle of this package.",
)
@click.option("-d", "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("-b", "--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Slices at a time.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Scans read ahead and written behind at a time; with --scheduler the workers decide.",
)
@click.option(
    "--overwrite", is_flag=True, help="Make results of ours again; others, and what a person corrected, stay."
)
@click.option("--no-qc", is_flag=True, help="No pictures.")
@click.option("--tta", is_flag=True, help="Average over five views of each slice; five times slower.")
@click.option("--raw", is_flag=True, help="The plain argmax: levels are not decoded, islands stay.")
@click.option(
    "--assume-spacing", callback=parse_spacing, metavar="MM or X,Y,Z", help="Spacing of scans whose header has none."
)
@click.option(
    "--series",
    metavar="NUMBER or TEXT",
    help="DICOM series with this number or with this in its description; default: sagittal T2.",
)
@click.option("--dicom-seg", is_flag=True, help="A DICOM SEG of each DICOM series, too (extra dicom).")
@click.option("--seg-nrrd", is_flag=True, help="A .seg.nrrd for 3D Slicer of each scan, too (extra slicer).")
@click.option("--identify", is_flag=True, help="PatientID and StudyInstanceUID in the JSONs as they are, not hashed.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Scans on workers of Dask: tcp://HOST:PORT, local:N or slurm:FILE.yaml (extra cluster).",
)
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def segment(
    inputs: tuple[Path, ...],
    output: Path,
    weights: Path | None,
    device: str,
    batch_size: int,
    jobs: int,
    overwrite: bool,
    no_qc: bool,
    tta: bool,
    raw: bool,
    assume_spacing: list[float] | None,
    series: str | None,
    dicom_seg: bool,
    seg_nrrd: bool,
    identify: bool,
    scheduler: str | None,
    verbose: bool,
) -> None:
    """Segment spine MRIs: vertebrae and discs, numbered, on each scan's own grid.

    INPUT is any mix of NIfTI files, folders (searched), BIDS data sets, DICOM files and folders, and datalist JSONs.
    One bad scan does not stop the others; the exit code is 1 if any failed, or lacks a copy that was asked for, or if
    nothing was there to segment. Called again, it does what is missing.

    \b
    Examples:
      cps4 segment scan.nii.gz -o out
      cps4 segment data/bids -o data/bids/derivatives/cps4 --device cuda:0
      cps4 segment archive/patient3 -o out --series "t2 sag"
      cps4 segment archive/patient3 -o out --dicom-seg
      cps4 segment patient1/dicom patient2/dicom -o out --weights spine.zip
      cps4 segment scans more/scan.nii -o out --tta --jobs 4
      cps4 segment archive -o out --scheduler local:2
    """
    import logging

    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s")
    if not verbose:  # warnings about scans are in the tables, those about the weights are told here
        logging.getLogger("cps4_monai.inference.bundle").setLevel(logging.WARNING)
    from cps4_monai.inference.batch import segment_scans
    from cps4_monai.threads import limit_threads

    limit_threads()
    with _Progress() as on_scan:
        try:
            run = segment_scans(
                inputs,
                output,
                weights=weights,
                device=device,
                batch_size=batch_size,
                overwrite=overwrite,
                qc=not no_qc,
                tta=tta,
                jobs=jobs,
                raw=raw,
                assume_spacing=assume_spacing,
                series=series,
                dicom_seg=dicom_seg,
                seg_nrrd=seg_nrrd,
                identify=identify,
                on_scan=on_scan,
                scheduler=scheduler,
            )
        except KeyboardInterrupt:
            click.echo(
                f"stopped; the same command goes on with what is missing in {output}, 'cps4 report {output}' makes "
                "tables and page of what is there",
                err=True,
            )
            raise click.Abort from None
        except (ValueError, OSError, RuntimeError) as error:
            raise click.ClickException(str(error)) from error
    _tell(run)
    if run.failures or run.lacking or not run.segmented:
        raise SystemExit(1)


class _Progress:
    """A bar on a terminal; a line for each scan elsewhere."""

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from cps4_monai.encoding import printable

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.bar.start()
        task = self.bar.add_task("reading, loading weights", total=None)

        def on_scan(outcome: Any, done: int, total: int) -> None:
            self.bar.update(task, completed=done, total=total, description=printable(Path(outcome.name).name))
            if not console.is_terminal:
                click.echo(f"[{done}/{total}] {printable(outcome.name)}: {outcome.status}", err=True)

        return on_scan

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


def _tell(run: SegmentationRun) -> None:
    """The last lines: what failed and was skipped, what needs a look, and where the report is."""
    from cps4_monai.inference.outcome import look_lines

    skipped = [outcome for outcome in run.outcomes if outcome.status == "skipped"]
    for outcome in skipped[:SHOWN]:
        click.echo(f"skipped {outcome.source}: {outcome.reason}", err=True)
    if len(skipped) > SHOWN:
        click.echo(f"skipped {len(skipped) - SHOWN} more, listed in the report", err=True)
    for outcome in run.failures:
        place = "" if outcome.reason.startswith(str(outcome.source)) else f"{outcome.source}: "
        click.echo(f"failed {place}{outcome.reason}", err=True)
    for outcome in run.lacking:
        click.echo(f"segmented, but {outcome.lacking}", err=True)
    notes = {outcome.reason for outcome in run.segmented if outcome.reason}
    for note in sorted(notes):
        count = sum(outcome.reason == note for outcome in run.segmented)
        click.echo(f"{count} {note}", err=True)
    done = sum(outcome.status == "done" for outcome in run.outcomes)
    kept = sum(outcome.status == "kept" for outcome in run.outcomes)
    click.echo(f"{done} segmented, {kept} kept, {len(run.failures)} failed")
    for line in look_lines(run.segmented, SHOWN) if run.segmented else ():
        click.echo(line)
    click.echo(f"report: {run.report}")
