"""`cps4 train`: the bundle's training stages, with overlays and settings checked by name."""

from __future__ import annotations

from pathlib import Path

import click

RUN_IDS = {"stage1": "training_stage1", "stage2": "training_stage2", "all": "run"}


@click.command()
@click.argument("stage", type=click.Choice(list(RUN_IDS)))
@click.option("--datalist", type=click.Path(path_type=Path), required=True, help="Datalist JSON (see `cps4 datalist`).")
@click.option("--dataset-dir", type=click.Path(path_type=Path), help="Folder of the scans; default: the datalist's.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--labeled-share", help="Subset of the datalist that counts as labeled, e.g. 10.")
@click.option(
    "--overlay", "overlays", multiple=True, help="Config merged over train.json: a name or a path; repeatable."
)
@click.option("--set", "settings", multiple=True, metavar="ID=VALUE", help="One setting, e.g. stage1#max_epochs=50.")
@click.option("--device", help="auto, cpu, cuda:N or mps; default: as the configs say, auto.")
@click.option("--tracking", help="mlflow, or a file with tracking settings.")
def train(
    stage: str,
    datalist: Path,
    dataset_dir: Path | None,
    output: Path,
    labeled_share: str | None,
    overlays: tuple[str, ...],
    settings: tuple[str, ...],
    device: str | None,
    tracking: str | None,
) -> None:
    """Train STAGE (stage1, stage2, or all). The same command resumes a run that was stopped.

    \b
    Examples:
      cps4 train all --datalist data/datalist.json -o runs/cps4
      cps4 train stage2 --datalist data/datalist.json -o runs/mt --overlay mean_teacher
      cps4 train stage1 --datalist data/datalist.json -o runs/a --set stage1#max_epochs=50
    """
    from cps4_monai.failure import for_terminal
    from cps4_monai.threads import limit_threads
    from cps4_monai.workflow import CPS4Workflow, parse_settings

    limit_threads()
    override = {
        "datalist": str(datalist.resolve()),
        "dataset_dir": str((dataset_dir or datalist.parent).resolve()),
        "output_dir": str(output.resolve()),
        **({} if device is None else {"device_name": device}),
        **({} if labeled_share is None else {"labeled_share": labeled_share}),
    }
    try:
        workflow = CPS4Workflow(
            overlays=overlays, run_id=RUN_IDS[stage], tracking=tracking, **{**override, **parse_settings(settings)}
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        raise click.ClickException(for_terminal(error, output)) from error
    click.echo(f"run: {output}")
