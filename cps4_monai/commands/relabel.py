"""`cps4 relabel`: a numbering that is one level off made right, results accepted, structures marked as wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cps4_monai.commands.paths import GivenPath

if TYPE_CHECKING:
    from cps4_monai.anatomy import Anatomy
    from cps4_monai.inference.corrections import Correction
    from cps4_monai.inference.relabel_run import Relabeled


@click.command()
@click.argument("path", type=GivenPath(), metavar="OUT or MASK")
@click.option(
    "-c",
    "--corrections",
    type=GivenPath(exists=True, dir_okay=False),
    help="corrections.json, which the page of a run saves; with OUT.",
)
@click.option("--shift", type=int, help="Vertebral levels; 1: every structure one level higher (L5 becomes L4).")
@click.option("--level", metavar="CODE=NAME", help="What the structure with a code (or a name) is, e.g. 4=L5 or L3=L5.")
@click.option("--wrong", multiple=True, metavar="NAME", help="Structure whose outline is wrong; repeatable.")
@click.option("--accept", is_flag=True, help="A person looked, and the result is fine.")
@click.option("--undo", is_flag=True, help="Take all corrections of MASK back.")
@click.option("--by", default="", help="Who says so; default: as the corrections say, or the user's name.")
@click.option("--comment", default="", help="Kept in the JSON.")
@click.option(
    "--images",
    type=GivenPath(exists=True, file_okay=False),
    help="Folder of the scans, where they no longer lie where they were segmented.",
)
@click.option("--anatomy", type=GivenPath(), help="Anatomy JSON; default: MRSpineSeg's 20 classes.")
def relabel(
    path: Path,
    corrections: Path | None,
    shift: int | None,
    level: str | None,
    wrong: tuple[str, ...],
    accept: bool,
    undo: bool,
    by: str,
    comment: str,
    images: Path | None,
    anatomy: Path | None,
) -> None:
    """Correct the numbering of label maps, accept them, or mark structures of them as wrong.

    Label map, JSON, picture, tables and report follow; the first label map stays beside it, hidden, for --undo. What
    cannot be (a level that the anatomy does not have, a structure that is not there) is refused with the reason, and
    the exit code is 1.

    \b
    Examples:
      cps4 relabel out --corrections corrections.json
      cps4 relabel out/scan_dseg.nii.gz --shift 1 --accept
      cps4 relabel out/scan_dseg.nii.gz --level 4=L5
      cps4 relabel out/scan_dseg.nii.gz --wrong L4 --comment "haemangioma"
      cps4 relabel out/scan_dseg.nii.gz --undo
    """
    from cps4_monai.anatomy import load_anatomy
    from cps4_monai.inference.relabel_run import relabel_file, relabel_run

    if not path.exists() and not undo:  # a label map that was moved away is brought back
        raise click.UsageError(f"{path} is not there; expected the folder of a run, or a label map of one")
    by_hand = any((shift is not None, level, wrong, accept, undo))
    undo_and_more = undo and any((shift is not None, level, wrong, accept, comment))
    _check_usage(path, corrections is not None, by_hand, undo_and_more)
    try:
        table = load_anatomy(anatomy)
        if corrections is not None:
            result = relabel_run(path, _from_file(corrections, by, comment), table, images)
        elif undo:
            result = relabel_file(path, None, table)
        else:
            result = relabel_file(path, _by_hand(shift, level, wrong, accept, by, comment, table), table, images)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    _tell(result)


def _check_usage(path: Path, from_file: bool, by_hand: bool, undo_and_more: bool) -> None:
    if from_file == by_hand:
        raise click.UsageError("give either --corrections, or --shift, --level, --wrong, --accept or --undo")
    if from_file and not path.is_dir():
        raise click.UsageError(f"{path} is a file; --corrections goes with the folder of a run")
    if by_hand and path.is_dir():
        raise click.UsageError(f"{path} is a folder; --shift and the like go with one label map")
    if undo_and_more:
        raise click.UsageError("--undo takes all corrections back and keeps no comment; call again for another one")


def _from_file(path: Path, by: str, comment: str) -> list[Correction]:
    from dataclasses import replace

    from cps4_monai.inference.corrections import read_corrections

    given = read_corrections(path)
    return [replace(one, by=by or one.by, comment=one.comment or comment) for one in given]


def _by_hand(
    shift: int | None, level: str | None, wrong: tuple[str, ...], accept: bool, by: str, comment: str, table: Anatomy
) -> Correction:
    from cps4_monai.inference.corrections import Correction

    codes = tuple(sorted(_code(name, table) for name in wrong))
    told = None if level is None else _level(level, table)
    return Correction(shift=shift, level=told, wrong=codes, accepted=accept, by=by, comment=comment)


def _level(text: str, table: Anatomy) -> tuple[int, str]:
    left, separator, right = text.partition("=")
    if not separator or not left.strip() or not right.strip():
        raise ValueError(f"--level is {text!r}; expected CODE=NAME, e.g. 4=L5: the structure with code 4 is L5")
    return _code(left.strip(), table), right.strip()


def _code(text: str, table: Anatomy) -> int:
    return int(text) if text.isdecimal() else table.code_of(text)


def _tell(result: Relabeled) -> None:
    from cps4_monai.data.corrected_scans import is_without_its_sacrum

    for name, record in result.applied.items():
        last = (record.get("Corrections") or [{}])[-1]
        moved = ", ".join(f"{old} is {new}" for old, new in last.get("Renamed", {}).items())
        state = (record.get("Review") or {}).get("State", "as it was first")
        click.echo(f"{name}: {state}{f'; {moved}' if moved else ''}")
        if is_without_its_sacrum(record):
            click.echo(
                f"{name}: the true sacrum, below, has no label now. Fix, before this scan is trained on: draw it in a "
                "viewer and --accept, or mark a structure as wrong, which leaves the scan unlabeled",
                err=True,
            )
    for name, reason in result.refused.items():
        click.echo(f"refused {reason if name in reason else f'{name}: {reason}'}", err=True)
    before = f"{len(result.before)} applied before, " if result.before else ""
    click.echo(f"{len(result.applied) - len(result.before)} applied, {before}{len(result.refused)} refused")
    if result.report is not None:
        click.echo(f"report: {result.report}")
    if result.unlisted is not None:
        click.echo(
            f"tables and report in {result.unlisted} are of a call of 'cps4 segment' without this scan, and stay as "
            f"they are: 'cps4 report {result.unlisted}' makes those of all label maps there"
        )
    if result.refused:
        raise SystemExit(1)
