"""`cps4 report`: tables, pictures and a page of label maps, scored against their ground truth where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cps4_monai.commands.paths import GivenPath

if TYPE_CHECKING:
    from cps4_monai.anatomy import Anatomy
    from cps4_monai.evaluation.folder import Evaluation

SHOWN = 5
# What is read with --labels only.
OF_DATALISTS = ("section", "dataset_dir")
OF_SCORES = (*OF_DATALISTS, "metrics", "compare", "attribution", "max_pictures")


@click.command()
@click.argument("masks", type=GivenPath(), required=False)
@click.option("-p", "--predictions", type=GivenPath(), help="Folder of label maps; the same as MASKS.")
@click.option("-l", "--labels", type=GivenPath(), help="Folder of labels, or a datalist JSON, to score.")
@click.option(
    "-o",
    "--output",
    type=GivenPath(),
    help="Folder for tables and report; default without labels: MASKS.",
)
@click.option(
    "--images",
    type=GivenPath(exists=True, file_okay=False),
    help="Folder of the scans, for pictures; default: what the JSONs name, or beside MASKS or labels.",
)
@click.option("--section", default="test", show_default=True, help="Of the datalist: test, validation or training.")
@click.option("--dataset-dir", type=GivenPath(), help="Folder of the datalist's scans.")
@click.option("--unannotated", help="Names of structures in view but never labeled, e.g. S; default: the datalist's.")
@click.option("--anatomy", type=GivenPath(), help="Anatomy JSON; default: MRSpineSeg's 20 classes.")
@click.option("--metrics", type=GivenPath(), help="metrics.csv or TensorBoard folder of the training.")
@click.option(
    "--compare", multiple=True, metavar="NAME=FOLDER", help="Another report's folder, shown side by side; repeatable."
)
@click.option("--title", default="Spine segmentation report", show_default=True)
@click.option("--attribution", default="", help="Source and licence of the scans, written below the report.")
@click.option("--max-pictures", default=30, show_default=True, type=click.IntRange(min=0))
@click.option("-j", "--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Cases at a time.")
def report(
    masks: Path | None,
    predictions: Path | None,
    labels: Path | None,
    output: Path | None,
    images: Path | None,
    section: str,
    dataset_dir: Path | None,
    unannotated: str | None,
    anatomy: Path | None,
    metrics: Path | None,
    compare: tuple[str, ...],
    title: str,
    attribution: str,
    max_pictures: int,
    jobs: int,
) -> None:
    """Score label maps against their ground truth; without --labels, make their statistics and pictures again.

    \b
    Examples:
      cps4 report segmented                          after label maps were edited by hand
      cps4 report -p predictions -l labels -o report
      cps4 report -p out -l datalist.json -o report --compare supervised=runs/supervised/report
    """
    if masks is not None and predictions is not None:
        raise click.UsageError(f"MASKS ({masks}) and -p ({predictions}) are the same thing: give one of them")
    masks = masks or predictions
    if masks is None:
        raise click.UsageError("name the label maps: cps4 report MASKS, or -p FOLDER -l LABELS -o OUTPUT")
    if labels is None:
        _refuse_unused(OF_SCORES, "without --labels")
        _report_masks(masks, output, images, anatomy, unannotated, title, jobs)
        return
    if output is None:
        raise click.UsageError("--output is needed with --labels")
    if labels.is_dir():
        _refuse_unused(OF_DATALISTS, "where --labels is a folder: they are of a datalist")
    from cps4_monai.anatomy import load_anatomy
    from cps4_monai.report.predictions import report_predictions

    try:
        table = load_anatomy(anatomy)
        result = report_predictions(
            masks,
            labels,
            output,
            anatomy=table,
            unannotated=_codes(unannotated, table),
            images=images,
            section=section,
            dataset_dir=dataset_dir,
            title=title,
            settings={"predictions": masks, "labels": labels},
            metrics=metrics,
            comparison=_compared(compare),
            method=_own_name(masks, compare) if compare else "",
            attribution=attribution,
            max_pictures=max_pictures,
            jobs=jobs,
            protect=True,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for metric in ("dice_b", "dice_a", "dice_c"):
        row = result.evaluation.overall(metric)
        click.echo(f"{metric}  {row['mean']:.4f}  [{row['ci_low']:.4f}, {row['ci_high']:.4f}]  n={row['n']}")
    if len(result.evaluation.failures):
        click.echo(f"{len(result.evaluation.failures)} not scored, see {result.folder / 'failures.csv'}", err=True)
    click.echo(f"report: {result.html}")


def _refuse_unused(options: Sequence[str], where: str) -> None:
    """Refuses options that would do nothing."""
    context = click.get_current_context()
    given = [n for n in options if context.get_parameter_source(n) not in (None, ParameterSource.DEFAULT)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{named}: not used {where}; leave it out")


def _compared(pairs: tuple[str, ...]) -> dict[str, Evaluation]:
    """Scores of the reports named by ``--compare NAME=FOLDER``."""
    from cps4_monai.evaluation.folder import Evaluation

    compared: dict[str, Evaluation] = {}
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        if not separator:
            raise ValueError(f"--compare is {pair!r}; expected NAME=FOLDER, e.g. supervised=runs/supervised/report")
        if name in compared:
            raise ValueError(f"--compare names {name!r} twice; give each report a name of its own")
        compared[name] = Evaluation.load(folder)
    return compared


def _own_name(masks: Path, pairs: tuple[str, ...]) -> str:
    """What the scored label maps are called beside those of ``--compare``."""
    taken = {pair.partition("=")[0] for pair in pairs}
    name = masks.resolve().name or "predictions"
    return f"{name} (this report)" if name in taken else name


def _codes(names: str | None, table: Anatomy) -> list[int] | None:
    return None if names is None else [table.code_of(name.strip()) for name in names.split(",") if name.strip()]


def _report_masks(
    masks: Path,
    output: Path | None,
    images: Path | None,
    anatomy: Path | None,
    unannotated: str | None,
    title: str,
    jobs: int,
) -> None:
    from cps4_monai.anatomy import load_anatomy
    from cps4_monai.inference.masks import report_masks
    from cps4_monai.inference.outcome import look_lines

    try:
        table = load_anatomy(anatomy)
        codes = _codes(unannotated, table)
        outcomes, page = report_masks(
            masks, output, images=images, anatomy=table, unannotated=codes, jobs=jobs, title=title
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        click.echo(f"failed {outcome.source}: {outcome.reason}", err=True)
    click.echo(f"{len(outcomes) - len(failed)} label maps, {len(failed)} failed")
    for line in look_lines([outcome for outcome in outcomes if outcome.status != "failed"], SHOWN):
        click.echo(line)
    click.echo(f"report: {page}")
    if failed:
        raise SystemExit(1)
