"""`cps4 datalist`: a datalist with patient-level splits from a folder of scans."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from cps4_monai.commands.paths import GivenPath


@click.command()
@click.argument("folder", type=GivenPath(exists=True, file_okay=False))
@click.option("-o", "--out", type=GivenPath(dir_okay=False), required=True, help="JSON file to write.")
@click.option(
    "--labeled-share",
    type=float,
    default=100.0,
    show_default=True,
    help="Percentage of the labeled training patients whose labels are used.",
)
@click.option("--labeled", type=click.IntRange(min=1), help="Their number, in place of the share.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the split.")
@click.option("--val", type=float, default=0.1, show_default=True, help="Validation patients: a share or a number.")
@click.option(
    "--test",
    type=float,
    help="Test patients: a share or a number; default: 0.2; none with --corrected, and where imagesTs holds them.",
)
@click.option(
    "--corrected", is_flag=True, help="FOLDER is one of 'cps4 segment': what people corrected or accepted is labeled."
)
@click.option(
    "--images",
    type=GivenPath(exists=True, file_okay=False),
    help="With --corrected: folder of the scans, where they no longer lie where they were segmented.",
)
@click.option(
    "--unannotated",
    type=int,
    multiple=True,
    help="Class code that is in view but never labeled (SPIDER: 1); repeatable.",
)
@click.option(
    "--anatomy",
    "anatomy_file",
    type=GivenPath(exists=True, dir_okay=False),
    help="Anatomy JSON; default: the 20 structures of MRSpineSeg.",
)
@click.option(
    "--check-content/--no-check-content",
    default=True,
    show_default=True,
    help="Compare the voxels of all scans in the leak check.",
)
def datalist(
    folder: Path,
    out: Path,
    labeled_share: float,
    labeled: int | None,
    seed: int,
    val: float,
    test: float | None,
    corrected: bool,
    images: Path | None,
    unannotated: tuple[int, ...],
    anatomy_file: Path | None,
    check_content: bool,
) -> None:
    """Make a datalist from FOLDER: BIDS or plain pairs (*_T2w.nii.gz with *_dseg.nii.gz), or nnU-Net's layout.

    With --corrected it is made of results: label maps that people corrected or accepted ('cps4 relabel') are labeled,
    all other scans of the folder unlabeled.

    \b
    Examples:
      cps4 datalist data/scans -o data/scans/datalist.json --val 2 --test 2 --seed 1
      cps4 datalist out --corrected -o corrected.json --val 1
    """
    from cps4_monai.anatomy import load_anatomy
    from cps4_monai.data.build_datalist import build_datalist

    if images is not None and not corrected:
        raise click.UsageError("--images goes with --corrected: else FOLDER holds the scans")
    given = click.get_current_context().get_parameter_source("labeled_share")
    if labeled is not None and given is not ParameterSource.DEFAULT:
        raise click.UsageError("--labeled and --labeled-share say the same thing in two ways; give one of them")
    try:
        built = build_datalist(
            folder,
            out,
            labeled_share=labeled_share,
            labeled=labeled,
            seed=seed,
            val=val,
            test=0.0 if corrected and test is None else test,
            unannotated=unannotated,
            anatomy=load_anatomy(anatomy_file),
            check_content=check_content,
            corrected=corrected,
            images=images,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for warning in built.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(
        f"{len(built.labeled)} labeled, {len(built.unlabeled)} unlabeled, {len(built.validation)} validation, "
        f"{len(built.test)} test"
    )
    click.echo(f"datalist: {out}")
