"""`cps4 phantom`: a seeded phantom data set."""

from __future__ import annotations

from pathlib import Path

import click

from cps4_monai.commands.paths import GivenPath


@click.command()
@click.argument("out", type=GivenPath(file_okay=False))
@click.option("--subjects", type=click.IntRange(min=1), default=20, show_default=True, help="Number of subjects.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the data set.")
@click.option("--labeled", type=click.IntRange(min=1), help="Labeled training subjects; default: a quarter of them.")
@click.option("--val", type=float, default=0.1, show_default=True, help="Validation subjects: a share or a number.")
@click.option("--test", type=float, default=0.2, show_default=True, help="Test subjects: a share or a number.")
@click.option("--in-plane", type=click.IntRange(16, 2048), default=512, show_default=True, help="Pixels in plane.")
@click.option("--slices", type=click.IntRange(1, 200), help="Sagittal slices; default: 12 to 18, drawn for each.")
@click.option(
    "--sacrum-free-share",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of subjects without the sacrum in view.",
)
@click.option(
    "--variation",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="How far size, posture and field of view stray from their means.",
)
def phantom(
    out: Path,
    subjects: int,
    seed: int,
    labeled: int | None,
    val: float,
    test: float,
    in_plane: int,
    slices: int | None,
    sacrum_free_share: float,
    variation: float,
) -> None:
    """Make a seeded phantom data set of spine MRIs with labels in the folder OUT.

    \b
    Example:
      cps4 phantom data/phantom --subjects 20 --seed 1 --labeled 4
    """
    from cps4_monai.data.phantom import write_phantom_dataset

    try:
        datalist = write_phantom_dataset(
            out,
            subjects,
            seed,
            size=in_plane,
            slices=slices,
            sacrum_free_share=sacrum_free_share,
            variation=variation,
            labeled=labeled,
            val=val,
            test=test,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for warning in datalist.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(
        f"{subjects} subjects: {len(datalist.labeled)} labeled, {len(datalist.unlabeled)} unlabeled, "
        f"{len(datalist.validation)} validation, {len(datalist.test)} test"
    )
    click.echo(f"datalist: {out / 'datalist.json'}")
