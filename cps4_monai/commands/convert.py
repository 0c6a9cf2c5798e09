"""`cps4 convert`: public data sets to this package's file names and codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cps4_monai.commands.paths import GivenPath

if TYPE_CHECKING:
    from cps4_monai.data.convert import Conversion

SOURCE = click.argument("source", type=GivenPath(exists=True, file_okay=False))
OUT = click.argument("out", type=GivenPath(file_okay=False))
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


@click.group()
def convert() -> None:
    """Convert MRSpineSeg or SPIDER downloads to this package's layout and codes.

    If a scan fails, the others go on and the exit code is 1.
    """


@convert.command()
@SOURCE
@OUT
@OVERWRITE
def mrspineseg(source: Path, out: Path, overwrite: bool) -> None:
    """MRSpineSeg: Case1.nii.gz with mask_case1.nii.gz, anywhere below SOURCE."""
    from cps4_monai.data.convert import convert_mrspineseg

    try:
        result = convert_mrspineseg(source, out, overwrite)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    _report(result, out)


@convert.command()
@SOURCE
@OUT
@click.option("--sequence", type=click.Choice(["t2", "t2_SPACE", "t1"]), default="t2", show_default=True)
@click.option(
    "--bodies-only",
    is_flag=True,
    help="Set the posterior elements of the vertebrae to background, as decoding of levels wants it.",
)
@click.option("--central-mm", type=click.FloatRange(min=0), help="Keep this width of slices about the canal; 0: one.")
@click.option("--half", is_flag=True, help="Halve the in-plane resolution.")
@OVERWRITE
def spider(
    source: Path, out: Path, sequence: str, bodies_only: bool, central_mm: float | None, half: bool, overwrite: bool
) -> None:
    """SPIDER: SOURCE/images/1_t2.mha with SOURCE/masks/1_t2.mha."""
    from cps4_monai.data.convert import convert_spider

    try:
        result = convert_spider(
            source,
            out,
            sequence=sequence,
            bodies_only=bodies_only,
            central_mm=central_mm,
            half=half,
            overwrite=overwrite,
        )
    except (ValueError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    _report(result, out, "no sacrum is annotated: pass --unannotated 1 to 'cps4 datalist'")


def _report(result: Conversion, out: Path, hint: str = "") -> None:
    for path, reason in result.failed:
        click.echo(f"failed: {path}: {reason}", err=True)
    dropped = {value for scan in result.scans for value in scan.dropped}
    if dropped:
        click.echo(f"values without a code here, set to background: {sorted(dropped)} (see conversion.csv)", err=True)
    labeled = sum(scan.labeled for scan in result.scans)
    click.echo(f"{len(result.scans)} scans, {labeled} with labels: {out}")
    if hint:
        click.echo(hint)
    if result.failed and not result.scans:
        raise click.ClickException("no scan could be converted")
    if result.failed:
        raise SystemExit(1)
