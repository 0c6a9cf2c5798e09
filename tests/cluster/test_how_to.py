"""The first lines of docs/how-to/many-scans.md, literally, in a shell of their own."""

from __future__ import annotations

import csv
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "many-scans.md"


@pytest.mark.cluster
def test_three_lines_give_a_run_on_two_workers(tmp_path) -> None:
    (lines,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.M | re.S)[:1]
    install, *commands = lines.splitlines()
    assert install == "pip install -c constraints.txt -e '.[cluster]'" and len(commands) == 2
    script = tmp_path / "bin" / "cps4"  # what the first line installs, for the package that is tested
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cps4_monai.cli "$@"\n')
    script.chmod(stat.S_IRWXU)
    path = {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-e", "-c", "\n".join(commands)]
    told = subprocess.run(shell, cwd=tmp_path, env={**os.environ, **path}, text=True, capture_output=True)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "out" / "report.html").is_file() and str(Path("out") / "report.html") in told.stdout
    with (tmp_path / "out" / "scans.csv").open(encoding="utf-8") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert statuses == ["done"] * 6
