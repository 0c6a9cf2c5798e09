"""`cps4 report`: score label maps against their ground truth, with tables and a report."""

from __future__ import annotations

import warnings
from pathlib import Path

import click


@click.command()
@click.option(
    "-p", "--predictions", type=click.Path(path_type=Path), required=True, help="Folder of predicted label maps."
)
@click.option(
    "-l", "--labels", type=click.Path(path_type=Path), required=True, help="Folder of labels, or a datalist JSON."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for tables and report.")
@click.option("--section", default="test", show_default=True, help="Of the datalist: test, validation or training.")
@click.option("--dataset-dir", type=click.Path(path_type=Path), help="Folder of the datalist's scans.")
@click.option("--unannotated", help="Names of structures in view but never labeled, e.g. S; default: the datalist's.")
@click.option("--anatomy", type=click.Path(path_type=Path), help="Anatomy JSON; default: MRSpineSeg's 20 classes.")
@click.option("--metrics", type=click.Path(path_type=Path), help="metrics.csv or TensorBoard folder of the training.")
@click.option(
    "--compare", multiple=True, metavar="NAME=FOLDER", help="Another report's folder, shown side by side; repeatable."
)
@click.option("--title", default="Spine segmentation report", show_default=True)
@click.option("--attribution", default="", help="Source and licence of the scans, written below the report.")
@click.option("--max-pictures", default=30, show_default=True, type=click.IntRange(min=0))
@click.option("-j", "--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Cases at a time.")
def report(
    predictions: Path,
    labels: Path,
    output: Path,
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
    """Score label maps against their ground truth, on the scan's own grid.

    \b
    Examples:
      cps4 report -p predictions -l labels -o report
      cps4 report -p out -l datalist.json -o report --compare supervised=runs/supervised/report
    """
    from cps4_monai.anatomy import load_anatomy
    from cps4_monai.evaluation.folder import Evaluation
    from cps4_monai.report.predictions import report_predictions

    # MONAI 1.6 calls its own deprecated argument; the user can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    try:
        table = load_anatomy(anatomy)
        codes = None if unannotated is None else [table.code_of(n.strip()) for n in unannotated.split(",") if n.strip()]
        others = {}
        for pair in compare:
            name, separator, folder = pair.partition("=")
            if not separator:
                raise ValueError(f"--compare is {pair!r}; expected NAME=FOLDER, e.g. supervised=runs/supervised/report")
            others[name] = Evaluation.load(folder).summary
        result = report_predictions(
            predictions,
            labels,
            output,
            anatomy=table,
            unannotated=codes,
            section=section,
            dataset_dir=dataset_dir,
            title=title,
            settings={"predictions": predictions, "labels": labels},
            metrics=metrics,
            comparison=others,
            attribution=attribution,
            max_pictures=max_pictures,
            jobs=jobs,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for metric in ("dice_b", "dice_a", "dice_c"):
        row = result.evaluation.overall(metric)
        click.echo(f"{metric}  {row['mean']:.4f}  [{row['ci_low']:.4f}, {row['ci_high']:.4f}]  n={row['n']}")
    if len(result.evaluation.failures):
        click.echo(f"{len(result.evaluation.failures)} not scored, see {result.folder / 'failures.csv'}", err=True)
    click.echo(f"report: {result.html}")
