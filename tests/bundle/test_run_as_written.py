"""The commands of the README, as they are written: from the bundle's folder, from elsewhere, without a path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from two_processes import run_in_two_processes

from cps4_monai.plan import plan_of

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"


@pytest.fixture
def arguments(tiny_data: Path, tmp_path: Path) -> dict[str, Any]:
    """What every run is told."""
    return {
        "dataset_dir": str(tiny_data),
        "datalist": str(tiny_data / "datalist.json"),
        "output_dir": str(tmp_path),
        "cache_dir": str(tiny_data / "cache"),
    }


def process(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, text=True, capture_output=True)


def python(*command: str, cwd: Path) -> str:
    done = process(*command, cwd=cwd)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def options(arguments: dict[str, Any]) -> list[str]:
    return [word for key, value in arguments.items() for word in (f"--{key}", str(value))]


def test_stage_1_from_the_bundles_folder(arguments: dict, tiny_overlay: Path, tmp_path: Path) -> None:
    configs = f"['configs/train.json','{tiny_overlay}']"
    command = ["-m", "monai.bundle", "run", "training_stage1", "--config_file", configs, *options(arguments)]
    python(*command, cwd=BUNDLE)
    assert (tmp_path / "stage1" / "prompted_vision.pt").is_file()


def test_stage_2_from_elsewhere_with_bundle_root(
    arguments: dict, tiny_overlay: Path, tiny_run: Path, tmp_path: Path
) -> None:
    configs = f"['{BUNDLE}/configs/train.json','{tiny_overlay}']"
    told = {"bundle_root": BUNDLE, "stage1_checkpoint": tiny_run / "stage1" / "prompted_vision.pt", **arguments}
    python("-m", "monai.bundle", "run", "training_stage2", "--config_file", configs, *options(told), cwd=tmp_path)
    assert (tmp_path / "stage2" / "model.pt").is_file()


def test_both_stages_without_a_path(
    arguments: dict, tiny_overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monai.bundle.run("run", workflow_name="cps4_monai.CPS4Workflow", overlays=str(tiny_overlay), **arguments)
    assert (tmp_path / "stage1" / "prompted_vision.pt").is_file() and (tmp_path / "stage2" / "model.pt").is_file()


def test_a_component_that_cannot_be_built_ends_in_one_line_and_a_log(arguments: dict, tmp_path: Path) -> None:
    command = ["-m", "monai.bundle", "run", "training_stage2", "--workflow_name", "cps4_monai.CPS4Workflow",
               "--overlays", "supervised", "--features", "['a']"]  # fmt: skip
    done = process(*command, *options(arguments), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1 and done.stderr.endswith(f"The traceback is in {tmp_path / 'error.log'}.\n")
    assert "Traceback (most recent call last)" in (tmp_path / "error.log").read_text()


def test_a_setting_is_unset_by_an_expression(arguments: dict, tiny_overlay: Path, tmp_path: Path) -> None:
    """MONAI ignores ``--ID None``; here the student is validated, too, unless that is unset."""
    configs = f"['configs/train.json','{tiny_overlay}','configs/methods/mean_teacher.json']"
    python("-m", "monai.bundle", "run", "training_stage2", "--config_file", configs, *options(arguments),
           "--validate#student_evaluator", "$None", cwd=BUNDLE)  # fmt: skip
    written = (tmp_path / "stage2" / "metrics.csv").read_text()
    assert ",val_dice," in written and "student_val_dice" not in written


def test_inference_from_the_bundles_folder(
    arguments: dict, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BUNDLE)
    del arguments["cache_dir"]
    checkpoint = tiny_run / "stage2" / "model.pt"  # its plan lies beside it
    arguments |= {"checkpoint": str(checkpoint), "network_def": plan_of(checkpoint).network, "device_name": "cpu"}
    monai.bundle.run(config_file="configs/inference.json", **arguments)
    assert len(list(tmp_path.glob("*_dseg.nii.gz"))) == 2


def test_evaluation_from_the_bundles_folder(
    arguments: dict, tiny_overlay: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BUNDLE)
    configs = ["configs/train.json", str(tiny_overlay), "configs/evaluate.json"]
    arguments |= {"output_dir": str(tiny_run), "evaluation_dir": str(tmp_path)}
    monai.bundle.run(config_file=configs, **arguments)
    report = (tmp_path / "report.html").read_text()
    assert "data:image/" in report and (tmp_path / "summary.csv").is_file()


def test_two_processes_train_together(
    arguments: dict, tiny_overlay: Path, run_tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BUNDLE)
    program = tmp_path / "bundle.py"
    program.write_text('import runpy; runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)')
    configs = f"['configs/train.json','{tiny_overlay}','configs/multi_gpu_train.json']"
    arguments |= {"output_dir": str(tmp_path / "two"), "device_name": "cpu"}
    run_in_two_processes(program, "run", "--config_file", configs, *options(arguments))
    assert len(list((tmp_path / "two" / "stage2").glob("events*"))) == 3  # trainer, evaluator, pictures: of one process
    assert (tmp_path / "two" / "stage2" / "model.pt").is_file()
    # Two processes with batches of 2 are one process with batches of 4; stage 1 has no BatchNorm to tell them apart.
    run_tiny("training_stage1", tmp_path / "one", **{"stage1#batch_size": 4})
    two, one = (
        torch.load(tmp_path / n / "stage1" / "prompted_vision.pt", weights_only=True)["weights"] for n in ("two", "one")
    )
    apart = torch.cat([(two[key] - one[key]).abs().flatten() for key in one])
    assert (apart < 1e-5).float().mean() > 0.99
