"""`cps4 attention`: what the class prompts of a stage 1 attend to, on any scan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cps4_monai.commands.paths import GivenPath
from cps4_monai.commands.spacing import parse_spacing

if TYPE_CHECKING:
    from cps4_monai.anatomy import Anatomy

SHOWN = 5
DICOM = "DICOM files; `cps4 attention` reads NIfTI"


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=GivenPath(exists=True), metavar="SCAN...")
@click.option(
    "-s",
    "--stage1",
    type=GivenPath(exists=True),
    help="Folder of a training with class prompts, its prompted_vision.pt, or a bundle that ships one; default: the "
    "package's own.",
)
@click.option("-o", "--output", required=True, type=GivenPath(file_okay=False), help="Folder of results.")
@click.option(
    "-p", "--prompts", help="Structures in the pictures; default: L5/S,L5,L3,L1, or the first four of another anatomy."
)
@click.option("-d", "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--assume-spacing", callback=parse_spacing, metavar="MM or X,Y,Z", help="Spacing of scans whose header has none."
)
def attention(
    inputs: tuple[Path, ...],
    stage1: Path | None,
    output: Path,
    prompts: str | None,
    device: str,
    assume_spacing: list[float] | None,
) -> None:
    """Show where class prompts attend to on SCANs (NIfTI files, or folders of them).

    A picture of each scan's middle slice with the maps of some prompts (figure 5 of the paper), and attention.html, in
    which whole scans (the first twenty) are looked through with the map of any prompt. A scan that cannot be read is
    named and left out; the exit code is 1 then. The stage 1 of this package's bundle is a small one for this command;
    the released weights of stage 2 were made without class prompts.

    \b
    Examples:
      cps4 attention scan.nii.gz -o out
      cps4 attention scan.nii.gz --stage1 runs/cps4 -o out
      cps4 attention scans --stage1 runs/cps4/stage1/prompted_vision.pt -o out --prompts S,L5,L4/L5
    """
    import tempfile

    from cps4_monai.data.cache import SliceCache
    from cps4_monai.data.in_plane import InPlane
    from cps4_monai.device import select_device
    from cps4_monai.inference.folder_search import Search, search_folder
    from cps4_monai.plan import plan_of
    from cps4_monai.report.attention_page import write_attention
    from cps4_monai.threads import limit_threads

    limit_threads()
    try:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = _checkpoint(stage1, Path(folder))
            scans, passed_over = list[Path](), list[tuple[Path, str]]()
            for path in inputs:
                search = search_folder(path, output) if path.is_dir() else Search([path])
                scans += search.scans
                passed_over += [*search.failures, *search.skipped, *((file, DICOM) for file in search.dicom)]
            if not scans:
                told = "".join(f"; {path}: {reason}" for path, reason in passed_over[:SHOWN])
                raise ValueError(f"{inputs[0]}: no NIfTI scan in it; expected files that end in .nii or .nii.gz{told}")
            plan = plan_of(checkpoint)
            names = _names(prompts, plan.anatomy)
            lower, upper = plan.percentiles
            in_plane = InPlane.from_dict(plan.in_plane)
            cache = SliceCache(folder, in_plane, lower=lower, upper=upper, assume_spacing=assume_spacing)
            page, failures = write_attention(
                checkpoint, scans, output, cache, plan.anatomy, names, select_device(device)
            )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for path, reason in passed_over[:SHOWN]:
        click.echo(f"passed over: {path}: {reason}", err=True)
    if len(passed_over) > SHOWN:
        click.echo(f"passed over: {len(passed_over) - SHOWN} more", err=True)
    click.echo(f"page: {page}")
    if failures:
        told = "\n".join(failures.values())
        raise click.ClickException(f"{len(failures)} of {len(scans)} scans could not be read:\n{told}")


def _checkpoint(stage1: Path | None, unpacked: Path) -> Path:
    """The file of a stage 1: itself, in the folder of a run, or in a bundle; one of a zip is unpacked.

    Raises:
        ValueError: there is none in it.
    """
    from cps4_monai.inference.bundle import CONFIG, stage1_of_bundle
    from cps4_monai.run_folder import STAGE1_WEIGHTS, stage1_file

    if stage1 is None or (stage1 / CONFIG).is_file() or (stage1.is_file() and stage1.suffix != ".pt"):
        file = stage1_of_bundle(stage1, unpacked)
    else:
        file = stage1_file(stage1)
    if file is None or not file.is_file():
        raise ValueError(
            f"{stage1 or 'the bundle of this package'}: holds no {STAGE1_WEIGHTS} with its plan.json; expected the "
            "folder of a training with class prompts ('cps4 train stage1' or 'all'), that file, or a bundle that "
            "ships one ('cps4 export --run RUN --stage1 RUN')"
        )
    return file


def _names(prompts: str | None, anatomy: Anatomy) -> list[str]:
    """Short names of the structures in the pictures."""
    if prompts is not None:
        return [name.strip() for name in prompts.split(",") if name.strip()]
    from cps4_monai.pictured import pictured_structures

    return pictured_structures(anatomy)
