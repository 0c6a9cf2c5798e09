"""`cps4 bench`: the plan on the command line, runs, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cps4_monai.bench import runner
from cps4_monai.bench.task import main as run_job
from cps4_monai.commands.bench import bench

STUDIES = Path(__file__).resolve().parents[2] / "studies"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(bench, [str(argument) for argument in arguments])


@pytest.fixture
def tiny_quick(tiny_overlay: Path, tmp_path: Path) -> Path:
    """studies/quick.yaml with networks, budgets and a phantom of a second or two, and two of its cells."""
    content = yaml.safe_load((STUDIES / "quick.yaml").read_text(encoding="utf-8"))
    own = json.loads(tiny_overlay.read_text(encoding="utf-8"))
    tiny = {k: v for k, v in own.items() if k not in ("device_name", "min_free_gib", "show_progress")}
    content["settings"].update(tiny, **{"log_every": 1, "stage1#val_interval": 1})
    content["phantom"].update(subjects=6, size=64, slices=2, labeled=1, val=1, test=1)
    content["matrix"] = [{"methods": ["supervised", "cps4"], "shares": [25]}]
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class InProcess:
    """A job's process without its start: torch and MONAI are imported already."""

    def __init__(self, command: list[str], *_: object) -> None:
        self.code = run_job(command[3:])

    def poll(self) -> int:
        return self.code


def test_the_quick_study_runs_and_is_then_done(tiny_quick: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "start_process", InProcess)
    runs = tmp_path / "runs"
    dry = call(tiny_quick, "-o", runs, "--dry-run", "-j", "3")
    assert dry.exit_code == 0, dry.output
    assert "0 of 3 jobs are done, 3 to run, 3 at a time" in dry.output and "training, validation, test" in dry.output
    assert not (runs / "cells").exists()

    result = call(tiny_quick, "-o", runs, "--device", "cpu", "-j", "1")
    assert result.exit_code == 0, result.output
    assert "[3 of 3] cell cps4-25pct-seed0: done in" in result.output and f"runs: {runs}" in result.output
    manifest = json.loads((runs / "quick.study.json").read_text(encoding="utf-8"))
    assert [cell["folder"] for cell in manifest["cells"]] == ["cells/supervised-25pct-seed0", "cells/cps4-25pct-seed0"]

    again = call(tiny_quick, "-o", runs, "--device", "cpu")
    assert again.exit_code == 0 and "3 of 3 jobs are done, 0 to run" in again.output

    report = call("report", runs, "-o", tmp_path / "report", "--section", "test", "--baseline", "cps4")
    assert report.exit_code == 0, report.output
    text = (tmp_path / "report" / "studies.md").read_text(encoding="utf-8")
    assert "(studies/worst-case-cps4.webp)" in text and "(studies/attention-at-25-labeled-" in text
    assert "against cps4" in text and (tmp_path / "report" / "studies.html").is_file()
    for arguments, message in ((["--baseline", "clip"], "baseline is 'clip'"), (["--study", "x"], "holds the studies")):
        wrong = call("report", runs, "-o", tmp_path / "report", "--no-pictures", *arguments)
        assert wrong.exit_code == 1 and message in wrong.output and "Traceback" not in wrong.output


WITHOUT_SCHEDULER = """
import sys
from click.testing import CliRunner
from cps4_monai.bench import runner
from cps4_monai.commands.bench import bench

class Ends:
    def __init__(self, command, log, environment):
        log.write(b"Error: nothing is trained here\\n")
    def poll(self):
        return 1

runner.start_process = Ends
result = CliRunner().invoke(bench, ["run", *sys.argv[1:], "--device", "cpu", "-j", "1"])
told = "its stage 1 failed" in result.output and "jobs failed; the same command" in result.output
print(result.exit_code, told, sorted({"dask", "distributed", "dask_jobqueue"} & set(sys.modules)))
"""


def test_without_a_scheduler_dask_is_not_imported(tiny_quick: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_SCHEDULER, str(tiny_quick), "-o", str(tmp_path / "runs")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "1 True []"


def test_a_dry_run_and_a_run_tell_which_weights_are_missing(tiny_quick: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CPS4_CACHE_DIR", str(tmp_path / "cache"))
    content = yaml.safe_load(tiny_quick.read_text(encoding="utf-8"))
    content["settings"]["stage1#vision_checkpoint"] = "vit-s-focus"
    tiny_quick.write_text(yaml.safe_dump(content))
    for more in (["--dry-run"], []):
        result = call(tiny_quick, "-o", tmp_path / "runs", "--device", "cpu", *more)
        assert result.exit_code == 1 and "0 of 3 jobs are done, 3 to run" in result.output
        assert "1 of the 3 jobs to run" in result.output and "`cps4 weights vit-s-focus`" in result.output
        assert not (tmp_path / "runs" / "stage1").exists() and not (tmp_path / "runs" / "quick.study.json").exists()
    assert call(tiny_quick, "-o", tmp_path / "runs", "--only", "supervised", "--dry-run").exit_code == 0


def test_errors_are_one_line(tiny_quick: Path, tiny_data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for arguments, text in (
        ([tmp_path / "no.yaml", "-o", runs], "cannot be read as a study"),
        ([tiny_quick, "-o", runs, "--datalist", tiny_data / "datalist.json"], "expected exactly one of the two"),
        ([STUDIES / "ratios.yaml", "-o", runs], "neither a phantom nor --datalist"),
        ([tiny_quick, "-o", runs, "--only", "mean*", "--dry-run"], "no cell matches --only 'mean*'"),
        ([tiny_quick, "-o", runs, "-j", "0"], "--jobs is '0'"),
    ):
        result = call(*arguments)
        last = result.output.strip().splitlines()[-1]
        assert result.exit_code == 1 and last.startswith("Error: ") and text in last, result.output


def test_options_may_come_before_the_study_and_help_names_both_forms(tiny_quick: Path, tmp_path: Path) -> None:
    assert call("-o", tmp_path / "runs", "--dry-run", tiny_quick).exit_code == 0
    output = call("--help").output
    assert "cps4 bench STUDY.yaml -o RUNS" in output and "report" in output


def test_the_phantom_of_a_study_is_made_once_and_never_mixed(tiny_quick: Path, tmp_path: Path) -> None:
    assert call(tiny_quick, "-o", tmp_path / "runs", "--dry-run").exit_code == 0
    content = yaml.safe_load(tiny_quick.read_text(encoding="utf-8"))
    content["phantom"]["seed"] = 9
    tiny_quick.write_text(yaml.safe_dump(content))
    result = call(tiny_quick, "-o", tmp_path / "runs", "--dry-run")
    assert result.exit_code == 1 and "holds a phantom made with" in result.output
    content["phantom"] = {"size": 64, "colour": "red"}
    tiny_quick.write_text(yaml.safe_dump(content))
    assert "expected 'subjects' and some of" in call(tiny_quick, "-o", tmp_path / "other", "--dry-run").output
