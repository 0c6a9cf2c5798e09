"""`cps4 train`: the bundle's training stages, with overlays and settings checked by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cps4_monai.commands.own_options import refuse_own_options
from cps4_monai.commands.paths import GivenPath

OPTIONS = {
    "datalist": "--datalist",
    "dataset_dir": "--dataset-dir",
    "output_dir": "--output",
    "device_name": "--device",
    "labeled_share": "--labeled-share",
}
RUN_IDS = {
    "pretraining": "pretraining",
    "stage1": "training_stage1",
    "stage2": "training_stage2",
    "all": "run",
    "finetune": "training_finetune",
}


@click.command()
@click.argument("stage", type=click.Choice(list(RUN_IDS)))
@click.option("--datalist", type=GivenPath(), required=True, help="Datalist JSON (see `cps4 datalist`).")
@click.option("--dataset-dir", type=GivenPath(), help="Folder of the scans; default: the datalist's.")
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder of the run.")
@click.option("--labeled-share", help="Subset of the datalist that counts as labeled, e.g. 10.")
@click.option(
    "--overlay", "overlays", multiple=True, help="Config merged over train.json: a name or a path; repeatable."
)
@click.option("--set", "settings", multiple=True, metavar="ID=VALUE", help="One setting, e.g. stage1#max_epochs=50.")
@click.option("--device", help="auto, cpu, cuda:N or mps; default: as the configs say, auto.")
@click.option(
    "-w",
    "--weights",
    type=GivenPath(),
    help="finetune: bundle folder, zip, or weights beside their plan; default: the bundle of this package.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="all: from the second on, stage 1 learns from unlabeled scans that stage 2 segmented, too.",
)
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
    weights: Path | None,
    rounds: int,
    tracking: str | None,
) -> None:
    """Train STAGE (stage1, stage2, or all). The same command resumes a run that was stopped.

    pretraining comes before stage1 where it is wanted: the ViT learns from all training slices, labeled or not, by
    masked autoencoding. stage1 starts from its file by --set stage1#vision_checkpoint=FILE, with the same model.

    all leaves stage 1 out where the method of stage 2 asks for no prompts (`cps4 methods` says which do).

    finetune goes on from trained weights, supervised and by their plan, on the labeled scans. It copies the weights to
    OUTPUT/models; called again once it has ended, it starts from those. The best epoch is
    OUTPUT/models/model_finetuned.pt, and the plan beside it says what it was trained on.

    \b
    Examples:
      cps4 train all --datalist data/datalist.json -o runs/cps4
      cps4 train all --datalist data/datalist.json -o runs/twice --labeled-share 5 --rounds 2
      cps4 train stage2 --datalist data/datalist.json -o runs/mt --overlay mean_teacher
      cps4 train stage1 --datalist data/datalist.json -o runs/a --set stage1#max_epochs=50
      cps4 train finetune --datalist corrected.json -o runs/again --set max_epochs=20
    """
    from cps4_monai.failure import for_terminal
    from cps4_monai.run_folder import refuse_other_kind
    from cps4_monai.threads import limit_threads
    from cps4_monai.workflow import DEFAULT_CONFIG, check_settings, parse_settings, run_workflow

    limit_threads()
    if weights is not None and stage != "finetune":
        raise click.UsageError("--weights goes with finetune; for stage2 use --set finetune_from=WEIGHTS")
    if tracking is not None and stage in ("pretraining", "finetune"):
        raise click.UsageError(f"--tracking goes with stage1, stage2 and all: the log of {stage} is metrics.csv")
    if tracking not in (None, "mlflow") and not Path(tracking).is_file():
        raise click.UsageError(
            f"--tracking is {tracking!r}; expected mlflow, or a file with tracking settings as the bundle's "
            "configs/mlflow.json has them"
        )
    if rounds > 1 and stage != "all":
        raise click.UsageError(f"--rounds goes with all: {stage} is one stage of one round")
    override = {
        "datalist": str(datalist.resolve()),
        "dataset_dir": str((dataset_dir or datalist.parent).resolve()),
        "output_dir": str(output.resolve()),
        **({} if device is None else {"device_name": device}),
        **({} if labeled_share is None else {"labeled_share": labeled_share}),
    }
    try:
        given = parse_settings(settings)
        refuse_own_options(given, override, OPTIONS)
        refuse_other_kind(output, stage, rounds)
        further: dict[str, Any] = {}
        if stage == "finetune":
            from cps4_monai.finetune_start import (
                check_codes,
                refuse_of_weights,
                settings_of_overlays,
                starting_plan,
                starting_weights,
            )

            refuse_of_weights(given)
            check_settings(overlays, given)  # before weights are copied
            plan = starting_plan(weights, output)
            further["also_given"] = settings_of_overlays(overlays, plan)
            check_codes(datalist, plan)
            override["finetune#weights"] = str(starting_weights(weights, output))
        if stage == "pretraining":
            further["config_file"] = [DEFAULT_CONFIG, "pretraining.json"]
        if rounds > 1:
            from cps4_monai.rounds import train_in_rounds

            train_in_rounds(rounds, output.resolve(), {**override, **given}, overlays=overlays, tracking=tracking)
        else:
            run_workflow(
                overlays=overlays, run_id=RUN_IDS[stage], tracking=tracking, **further, **{**override, **given}
            )
    except KeyboardInterrupt:
        _tell_of_stop(output)
        raise click.Abort from None
    except Exception as error:
        raise click.ClickException(for_terminal(error, output)) from error
    click.echo(f"run: {output}")


def _tell_of_stop(output: Path) -> None:
    """What becomes of a training that was stopped by hand."""
    from cps4_monai.run_folder import has_checkpoint

    kept = has_checkpoint(output)
    goes_on = "goes on at the last epoch that is kept in" if kept else "begins anew: no epoch is kept yet in"
    click.echo(f"stopped; the same command {goes_on} {output}", err=True)
