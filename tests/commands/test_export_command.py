"""`cps4 export`; what is in the zip is tested in tests/test_export.py."""

from __future__ import annotations

import zipfile
from pathlib import Path

from click.testing import CliRunner

from cps4_monai.commands.export import export


def test_writes_a_zip_under_a_name_and_says_where(tmp_path: Path) -> None:
    result = CliRunner().invoke(export, ["-o", str(tmp_path / "b.zip"), "--name", "mine"])
    assert result.exit_code == 0 and result.output == f"bundle: {tmp_path / 'b.zip'}\n"
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        names = archive.namelist()
    assert {"mine/configs/train.json", "mine/cps4_monai/workflow.py", "mine/LICENSE"} <= set(names)
    assert all(name.startswith("mine/") for name in names)


def test_a_bundle_that_is_none_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(export, ["-o", str(tmp_path / "b.zip"), "--bundle-root", str(tmp_path)])
    assert result.exit_code == 1 and "is no bundle" in result.output and result.output.count("\n") == 1
