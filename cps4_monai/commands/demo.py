"""`cps4 demo`: train, segment, evaluate and report on a phantom, start to end."""

from __future__ import annotations

from pathlib import Path

import click

from cps4_monai.commands.paths import GivenPath


@click.command()
@click.option("-o", "--output", type=GivenPath(), default=Path("demo_output"), show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of phantom and training; above 0 all goes to OUTPUT/seed-N.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:N or mps.")
def demo(output: Path, seed: int, device: str) -> None:
    """Train, segment, evaluate and report on a phantom, start to end.

    The same command resumes a demo that was stopped.
    """
    import time

    from cps4_monai.demo import TRIVIAL, Demo
    from cps4_monai.failure import for_terminal, write_traceback
    from cps4_monai.threads import limit_threads

    limit_threads()
    started = time.perf_counter()
    try:
        result = Demo(output.resolve(), seed, device, say=click.echo).run()
    except Exception as error:
        write_traceback(error, output)
        raise click.ClickException(for_terminal(error, output)) from error
    click.echo(f"\nDice (b) on the held-out subjects, {time.perf_counter() - started:.0f} s in all")
    for name, row in result.headline("dice_b").items():
        note = "  (no image looked at)" if name == TRIVIAL else ""
        click.echo(f"  {name:16s} {row['mean']:.3f}  [{row['ci_low']:.3f}, {row['ci_high']:.3f}]{note}")
    click.echo(f"report: {result.html}")
