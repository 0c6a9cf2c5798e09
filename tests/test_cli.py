"""The `cps4` command itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from cps4_monai import __version__
from cps4_monai.cli import COMMANDS, main


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from cps4_monai.cli import main; "
        "result = CliRunner().invoke(main, ['--help']); assert result.exit_code == 0, result.output; "
        "heavy = {'torch', 'monai', 'numpy', 'timm', 'transformers', 'pandas', 'matplotlib', 'nibabel', 'scipy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_every_command_with_what_it_does() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(name in output and text.split()[0] in output for name, text in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0 and "Options" in result.output


def test_version_and_unknown_commands() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output
    assert CliRunner().invoke(main, ["trian"]).exit_code == 2
