"""`cps4 export`: stage a self-contained, zipped bundle."""

from __future__ import annotations

from pathlib import Path

import click

from cps4_monai.commands.paths import GivenPath


@click.command()
@click.option(
    "--run", "run_dir", type=GivenPath(), help="Training run whose best weights are shipped, of stage 2 or fine-tuned."
)
@click.option("--evaluation", type=GivenPath(), help="`cps4 evaluate` folder to state; default: RUN/evaluation.")
@click.option("-o", "--output", type=GivenPath(), required=True, help="Zip to write.")
@click.option("--bundle-root", type=GivenPath(), help="Bundle folder; default: the package's own.")
@click.option("--name", default=None, help="Name of the folder inside the zip.")
@click.option("--half/--full", default=False, show_default=True, help="Weights in half precision, or as they are.")
@click.option("--onnx", is_flag=True, help="With the network as models/model.onnx, too (extra 'onnx').")
@click.option(
    "--stage1",
    type=GivenPath(exists=True),
    help="A stage 1 to ship, too, in half precision: the folder of its run, or its prompted_vision.pt. `cps4 "
    "attention` shows its prompts.",
)
def export(
    run_dir: Path | None,
    evaluation: Path | None,
    output: Path,
    bundle_root: Path | None,
    name: str | None,
    half: bool,
    onnx: bool,
    stage1: Path | None,
) -> None:
    """Stage a self-contained MONAI bundle and zip it.

    With `--run`, its metadata and README state what is known of the run's weights: what they were trained on, and the
    figures of `cps4 evaluate` where these weights were evaluated.

    \b
    Examples:
      cps4 export -o spine.zip                      the bundle with its own weights
      cps4 export --run runs/cps4 -o spine.zip      with the best weights of a run
      cps4 export --run runs/cps4 --stage1 runs/cps4 -o spine.zip    and its class prompts
      cps4 export --half --onnx -o spine.zip        small weights, and the network as ONNX
    """
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from cps4_monai.bundle_root import find_bundle_root
    from cps4_monai.export import BUNDLE_NAME, evaluation_of_run, export_bundle, weights_of_run
    from cps4_monai.run_folder import stage1_file

    if evaluation is not None and run_dir is None:
        raise click.UsageError(
            "--evaluation belongs to --run: the figures of a bundle's own weights are in its metadata"
        )
    if stage1 is not None and run_dir is None:
        raise click.UsageError("--stage1 belongs to --run: a bundle's own stage 1 is shipped with its own weights")
    try:
        weights = None if run_dir is None else weights_of_run(run_dir)
        if run_dir is not None and evaluation is None:
            evaluation = evaluation_of_run(run_dir)
        root = bundle_root or find_bundle_root()
        prompts = None if stage1 is None else stage1_file(stage1)
        path = export_bundle(root, output, weights, name or BUNDLE_NAME, half, onnx, evaluation, prompts)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"bundle: {path}")
