"""`cps4 evaluate`: predictions, tables and a report of a training run's weights on a datalist."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from cps4_monai.commands.own_options import refuse_own_options
from cps4_monai.commands.paths import GivenPath

OPTIONS = {
    "output_dir": "RUN",
    "section": "--section",
    "evaluation_dir": "--output",
    "device_name": "--device",
    "datalist": "--datalist",
    "dataset_dir": "--dataset-dir",
}


@click.command()
@click.argument("run_dir", metavar="RUN", type=GivenPath())
@click.option("--datalist", type=GivenPath(), help="Datalist JSON; default: the one of the training.")
@click.option("--dataset-dir", type=GivenPath(), help="Folder of the scans; default: the datalist's.")
@click.option("--section", type=click.Choice(["test", "validation", "training"]), default="test", show_default=True)
@click.option(
    "-o",
    "--output",
    type=GivenPath(),
    help="Folder for the results; default: RUN/evaluation, of another section RUN/evaluation_SECTION.",
)
@click.option("--set", "settings", multiple=True, metavar="ID=VALUE", help="One setting, e.g. report_title=Spines.")
@click.option("--device", help="auto, cpu, cuda:N or mps; default: as the configs say, auto.")
def evaluate(
    run_dir: Path,
    datalist: Path | None,
    dataset_dir: Path | None,
    section: str,
    output: Path | None,
    settings: tuple[str, ...],
    device: str | None,
) -> None:
    """Segment and score a section of a datalist with the best weights of the training run in the folder RUN: those of
    stage 2, or fine-tuned ones.

    Scored are label maps as `cps4 segment` gives them, levels decoded, and beside them the plain argmax (in
    `argmax/`). Spacing, classes and network come with the weights. The precision is the run's: one with `amp` computes
    in bfloat16 where the hardware has it, and pixels may differ; `--set amp=false` gives the label maps of `cps4
    segment`, which is float32, bit for bit.

    \b
    Examples:
      cps4 evaluate runs/cps4
      cps4 evaluate runs/cps4 --datalist other/datalist.json --section test -o other/evaluation
    """
    from cps4_monai.export import weights_of_run
    from cps4_monai.failure import for_terminal
    from cps4_monai.report.predictions import PredictionReport
    from cps4_monai.run_folder import FINETUNE, LOG, STAGE2_WEIGHTS, evaluation_folder
    from cps4_monai.threads import limit_threads
    from cps4_monai.workflow import RUN_CONFIG, CPS4Workflow, parse_settings

    limit_threads()
    config = run_dir / RUN_CONFIG
    if not config.is_file():
        raise click.ClickException(
            f"{config} is not there; expected the output folder of `cps4 train` as RUN. Fix: "
            "name it; a run of plain `python -m monai.bundle` is evaluated by configs/evaluate.json, with "
            f"--output_dir {run_dir}"
        )
    override: dict[str, Any] = {"output_dir": str(run_dir.resolve()), "section": section}
    if device is not None:
        override["device_name"] = device
    if datalist is not None:
        override |= {
            "datalist": str(datalist.resolve()),
            "dataset_dir": str((dataset_dir or datalist.parent).resolve()),
            # They choose among the training scans of the run's own datalist.
            "labeled_share": None,
            "labeled_subjects": None,
            "unlabeled_slices": False,
        }
    elif dataset_dir is not None:
        override["dataset_dir"] = str(dataset_dir.resolve())
    own = evaluation_folder(run_dir, section)
    folder = output or own
    override["evaluation_dir"] = str(folder.resolve())
    if not os.access(run_dir, os.W_OK):  # an archive; slices of its own cache are read, new ones go elsewhere
        override["cache_dir"] = str(folder.resolve() / "cache")
    # A folder that a person named may hold files of theirs.
    override["check_tables#protect"] = folder.resolve() != own.resolve()
    try:
        given = parse_settings(settings)
        refuse_own_options(given, override, OPTIONS)
        if "checkpoint" not in given:
            weights = weights_of_run(run_dir)
            override["checkpoint"] = str(weights.resolve())
            if weights != run_dir / STAGE2_WEIGHTS:  # the curve of the report is that of the fine-tuning
                override["evaluate#metrics"] = str((run_dir / FINETUNE / LOG).resolve())
        workflow = CPS4Workflow([str(config), "evaluate"], run_id="run", **{**override, **given})
        workflow.initialize()
        report = next(result for result in workflow.run() if isinstance(result, PredictionReport))
        stage1 = workflow.parser.get_parsed_content("evaluate#stage1") or {}
    except Exception as error:
        raise click.ClickException(for_terminal(error, run_dir)) from error
    for name, objective in stage1.items():
        click.echo(f"{name}: {objective}")
    for line in report.headline():
        click.echo(f"Dice (b), {line}" if report.argmax is not None else line)
    click.echo(f"report: {folder / 'report.html'}")
