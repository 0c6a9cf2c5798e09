"""`cps4 train`: the bundle's training stages, with overlays and settings checked by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cps4_monai.bundle_root import BUNDLE_WEIGHTS

if TYPE_CHECKING:
    from cps4_monai.plan import Plan

RUN_IDS = {"stage1": "training_stage1", "stage2": "training_stage2", "all": "run", "finetune": "training_finetune"}

# What fine-tuning takes from the plan of the weights, whatever the configs say.
OF_WEIGHTS = ("spacing_mm", "slice_size", "in_plane_mode", "features", "network_def", "anatomy_source", "unannotated")


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
@click.option(
    "-w",
    "--weights",
    type=click.Path(path_type=Path),
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
    from cps4_monai.threads import limit_threads
    from cps4_monai.workflow import check_settings, parse_settings, run_workflow

    limit_threads()
    if weights is not None and stage != "finetune":
        raise click.UsageError("--weights goes with finetune; for stage2 use --set finetune_from=WEIGHTS")
    if tracking is not None and stage == "finetune":
        raise click.UsageError(
            "--tracking goes with stage1, stage2 and all: a fine-tuning's log is metrics.csv, and run.log"
        )
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
        further: dict[str, Any] = {}
        if stage == "finetune":
            _refuse_of_weights(given)
            check_settings(overlays, given)  # before weights are copied
            further["also_given"] = _settings_of_overlays(overlays, weights, output)
            override["finetune#weights"] = str(_weights_of_run(weights, output))
        if rounds > 1:
            from cps4_monai.rounds import train_in_rounds

            train_in_rounds(rounds, output.resolve(), {**override, **given}, overlays=overlays, tracking=tracking)
        else:
            run_workflow(
                overlays=overlays, run_id=RUN_IDS[stage], tracking=tracking, **further, **{**override, **given}
            )
    except Exception as error:
        raise click.ClickException(for_terminal(error, output)) from error
    click.echo(f"run: {output}")


def _refuse_of_weights(given: Mapping[str, Any]) -> None:
    """Refuses settings of a fine-tuning that come with its weights: they would change nothing.

    Raises:
        ValueError: names them.
    """
    named = sorted(key for key in given if key.partition("#")[0] in OF_WEIGHTS)
    if named:
        raise ValueError(
            f"finetune: {', '.join(named)} set, which come with the weights (their plan.json); expected none of them. "
            "Fix: leave them out, or train stage2 with finetune_from and finetune_other_geometry"
        )


def _settings_of_overlays(overlays: Sequence[str], weights: Path | None, output: Path) -> list[str]:
    """What overlays set of a fine-tuning and are to be warned of where it does not read it.

    Left out is what they say as the plan of the weights does (``as_trained``), or for other runs (``multi_gpu_train``).

    Raises:
        ValueError: settings that come with the weights, at other values than theirs; names the overlay.
    """
    from cps4_monai.workflow import read_overlays

    if not overlays:
        return []
    layers = read_overlays(overlays)
    plan, further = _plan_of_run(weights, output), []
    for path, layer in layers.items():
        others = [key for key, value in layer.items() if not _as_planned(key, value, plan)]
        wrong = {key: layer[key] for key in sorted(others) if key.partition("#")[0] in OF_WEIGHTS}
        if wrong:
            said = ", ".join(f"{key} to {value!r}" for key, value in wrong.items())
            raise ValueError(
                f"finetune: {path} sets {said}, which come with the weights (their plan.json has others); expected "
                "theirs, or none. Fix: leave them out of the overlay, or train stage2 with finetune_from and "
                "finetune_other_geometry"
            )
        further += [key for key in others if not _of_another_run(key)]
    return further


def _of_another_run(key: str) -> bool:
    """Whether an overlay sets it for stage 1 or 2, or for a run as a whole: overlays are written for all of them."""
    first, _, within = key.partition("#")
    return first in ("stage1", "train") or (not within and (first == "run" or first.startswith("training_")))


def _as_planned(key: str, value: Any, plan: Plan) -> bool:
    """Whether a setting is there what it is in the plan of weights."""
    from cps4_monai.anatomy import load_anatomy
    from cps4_monai.inference.segmentation import plain

    if key == "anatomy_source":
        try:
            return load_anatomy(value, stored=True).to_dict() == plan.anatomy.to_dict()
        except ValueError:
            return False
    network = dict(plan.network or {})
    planned: dict[str, Any] = {
        "spacing_mm": plan.spacing_mm,
        "slice_size": plan.slice_size,
        "in_plane_mode": plan.in_plane_mode,
        "features": network.get("features"),
        "network_def": network,
        "unannotated": plan.unannotated,
        "level_thresholds": plan.decoding,
        "cache": {"percentiles": plan.percentiles},
        "prompt_template": None,
    }
    if key == "network_def" and isinstance(value, Mapping):
        value = {name: item for name, item in value.items() if name != "_requires_"}
    there: Any = planned
    for part in key.split("#"):
        if not isinstance(there, Mapping) or part not in there:
            return False
        there = there[part]
    return plain({key: there}) == plain({key: value})


def _plan_of_run(weights: Path | None, output: Path) -> Plan:
    """Of the weights that a fine-tuning starts from; nothing is copied."""
    from cps4_monai.inference.bundle import open_bundle
    from cps4_monai.plan import plan_of

    path = output.resolve() / BUNDLE_WEIGHTS
    return plan_of(path) if path.is_file() and weights is None else open_bundle(weights).plan


def _weights_of_run(weights: Path | None, output: Path) -> Path:
    """``models/model.pt`` of the run, with its plan: copied from a bundle where it is not there yet.

    Raises:
        ValueError: no usable weights, or others than those that are there.
    """
    import json

    from cps4_monai.atomic_file import write_atomically
    from cps4_monai.file_hash import file_sha256
    from cps4_monai.inference.bundle import open_bundle

    path = output.resolve() / BUNDLE_WEIGHTS
    if path.is_file() and weights is None:
        return path
    bundle = open_bundle(weights)
    if path.is_file():
        there = file_sha256(path)
        if there != bundle.sha256:
            raise ValueError(
                f"{path}: holds other weights ({there[:12]}...) than --weights ({bundle.sha256[:12]}...); expected the "
                "same. Fix: leave --weights out to go on from those that are there, or choose another output folder"
            )
        return path
    write_atomically(path.with_name("plan.json"), json.dumps(bundle.plan.to_dict(), indent=2) + "\n", shared=True)
    return write_atomically(path, bundle.content, shared=True)
