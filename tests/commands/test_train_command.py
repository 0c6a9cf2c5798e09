"""`cps4 train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from monai.bundle import ConfigWorkflow

from cps4_monai import workflow
from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.commands.train import train


def call(tiny_data: Path, tiny_overlay: Path, output: Path, *more: str, stage: str = "stage2") -> Result:
    options = ["--datalist", str(tiny_data / "datalist.json"), "-o", str(output), "--device", "cpu"]
    options += ["--overlay", "supervised", "--overlay", str(tiny_overlay), "--set", f"cache_dir={tiny_data / 'cache'}"]
    return CliRunner().invoke(train, [stage, *options, *more])


def test_trains_resumes_and_says_where(tiny_data: Path, tiny_overlay: Path, tmp_path: Path) -> None:
    for epochs in ("1", "2"):
        result = call(tiny_data, tiny_overlay, tmp_path, "--set", f"max_epochs={epochs}")
        assert result.exit_code == 0, result.output
        assert result.output.endswith(f"run: {tmp_path}\n")
    assert "resumed from" in result.output and "1 of 2 epochs done" in result.output
    assert (tmp_path / "config.json").is_file() and (tmp_path / "stage2" / "model.pt").is_file()


@pytest.mark.parametrize("kept", ["", "stage2", "rounds/1/stage1"])
def test_who_stops_a_training_is_told_how_it_goes_on(
    kept: str, tiny_data: Path, tiny_overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kept:
        (tmp_path / kept).mkdir(parents=True)
        (tmp_path / kept / "resume.pt").touch()

    def stopped(self: ConfigWorkflow) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ConfigWorkflow, "run", stopped)
    result = call(tiny_data, tiny_overlay, tmp_path)
    said = "goes on at the last epoch that is kept in" if kept else "begins anew: no epoch is kept yet in"
    assert result.exit_code == 1 and f"stopped; the same command {said} {tmp_path}" in result.output


def test_errors_are_one_line(tiny_data: Path, tiny_overlay: Path, tmp_path: Path) -> None:
    for more, text in (
        (["--set", "stage1#max_epoch=3"], "did you mean stage1#max_epochs"),
        (["--set", "max_epochs"], "not of the form ID=VALUE"),
        (["--overlay", "men_teacher"], "no config called 'men_teacher'; did you mean mean_teacher"),
        (["--device", "cuda:77"], "set device to auto or cpu"),
        (["--labeled-share", "33"], "no labeled share '33'"),
        (["--datalist", str(tmp_path / "no.json")], "cannot be read as a datalist"),
    ):
        result = call(tiny_data, tiny_overlay, tmp_path / "run", *more)
        last = result.output.strip().splitlines()[-1]
        assert result.exit_code == 1 and last.startswith("Error: ") and text in last, result.output
        assert "Traceback" not in result.output


def test_fine_tuning_refuses_settings_that_come_with_the_weights(tiny_data: Path, tiny_overlay: Path, tmp_path: Path):
    more = ("--set", "spacing_mm=2.0", "--set", "network_def#features=[4, 8]", "--set", "max_epochs=1")
    result = call(tiny_data, tiny_overlay, tmp_path / "run", *more, stage="finetune")
    assert result.exit_code == 1 and not (tmp_path / "run" / "models").exists()
    assert "network_def#features, spacing_mm set, which come with the weights" in result.output


def test_fine_tuning_refuses_overlays_that_contradict_the_weights(
    tiny_data: Path, tiny_overlay: Path, tiny_run: Path, tmp_path: Path
):
    weights = ("--weights", str(tiny_run / "stage2" / "model.pt"))
    other = tmp_path / "other.json"
    for settings, said in (
        ({"spacing_mm": 3.3, "in_plane_mode": "central_half"}, "in_plane_mode to 'central_half', spacing_mm to 3.3"),
        ({"anatomy_source": {"structures": []}}, "anatomy_source to "),
        ({"network_def#out_channels": 3}, "network_def#out_channels to 3"),
        ({"unannotated": [1]}, r"unannotated to [1]"),
    ):
        other.write_text(json.dumps(settings))
        result = call(tiny_data, tiny_overlay, tmp_path / "run", *weights, "--overlay", str(other), stage="finetune")
        assert result.exit_code == 1 and not (tmp_path / "run" / "models").exists()
        assert f"other.json sets {said}" in result.output and "which come with the weights" in result.output


def test_fine_tuning_takes_overlays_as_trained_and_warns_of_what_it_does_not_read(
    tiny_data: Path, tiny_overlay: Path, tiny_run: Path, tmp_path: Path
):
    table, own = tmp_path / "table.json", tmp_path / "own.json"
    table.write_text(json.dumps(MRSPINESEG.to_dict()))
    own.write_text(
        json.dumps({"anatomy_source": str(table), "level_thresholds": {}, "max_epochs": 1, "val_interval": 1})
    )
    more = ("--weights", str(tiny_run / "stage2" / "model.pt"), "--overlay", str(own))
    result = call(tiny_data, tiny_overlay, tmp_path / "run", *more, stage="finetune")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.output.splitlines() if "training_finetune does not read" in line)
    named = line.partition("does not read ")[2].partition(":")[0].split(", ")
    assert "val_interval" in named
    assert not set(named) & {"spacing_mm", "slice_size", "features", "anatomy_source", "max_epochs"}


def test_fine_tuning_on_several_gpus_is_not_warned_of_what_the_overlay_sets_for_the_stages(
    tiny_data: Path, tiny_overlay: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(ConfigWorkflow, "initialize", lambda self: None)
    monkeypatch.setattr(ConfigWorkflow, "run", lambda self: None)
    monkeypatch.setattr(ConfigWorkflow, "finalize", lambda self: None)
    said: list[str] = []
    monkeypatch.setattr(workflow.logger, "warning", lambda text, *values: said.append(text % values))
    more = ["--datalist", str(tiny_data / "datalist.json"), "-o", str(tmp_path / "run"), "--overlay", "multi_gpu_train"]
    more += ["--weights", str(tiny_run / "stage2" / "model.pt")]
    result = CliRunner().invoke(train, ["finetune", *more])
    assert result.exit_code == 0 and said == [], result.output
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"stage1#max_epochs": 3, "run": ["$None"], "val_interval": 1}))
    result = CliRunner().invoke(train, ["finetune", *more, "--overlay", str(own), "--set", "stage1#batch_size=2"])
    assert result.exit_code == 0 and len(said) == 1, result.output
    assert said[0].startswith("training_finetune does not read stage1#batch_size, val_interval: ")


def test_fine_tuning_keeps_out_of_other_trainings_and_of_label_maps_of_other_structures(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config = (tiny_run / "config.json").read_bytes()
    data = ["--datalist", str(tiny_data / "datalist.json")]
    result = CliRunner().invoke(train, ["finetune", *data, "-o", str(tiny_run)])
    assert result.exit_code == 1 and "(stage1/run.json, stage2/run.json), whose config" in result.output
    assert (tiny_run / "config.json").read_bytes() == config
    (tmp_path / "tuned" / "finetune").mkdir(parents=True)
    (tmp_path / "tuned" / "finetune" / "run.json").write_text("{}")
    for stage in ("stage2", "pretraining"):
        result = CliRunner().invoke(train, [stage, *data, "-o", str(tmp_path / "tuned")])
        assert result.exit_code == 1 and f"(finetune/run.json), whose config.json a training of {stage}" in (
            result.output
        )
    content = json.loads((tiny_data / "datalist.json").read_text())
    (tmp_path / "cord.json").write_text(json.dumps({**content, "structures": {"1": "cord"}}))
    data = ["--datalist", str(tmp_path / "cord.json"), "--dataset-dir", str(tiny_data)]
    result = CliRunner().invoke(train, ["finetune", *data, "-o", str(tmp_path / "run")])
    assert result.exit_code == 1 and "code 1 'cord', not 'S'" in result.output
    assert not (tmp_path / "run" / "models").exists()


@pytest.mark.parametrize(("content", "said"), [("{", "cannot be read as JSON"), ("[1]", "holds a list")])
def test_an_overlay_that_holds_no_settings_is_named(
    content: str, said: str, tiny_data: Path, tiny_overlay: Path, tmp_path: Path
):
    path = tmp_path / "broken.json"
    path.write_text(content)
    for stage in ("stage2", "finetune"):
        result = call(tiny_data, tiny_overlay, tmp_path / "run", "--overlay", str(path), stage=stage)
        last = result.output.strip().splitlines()[-1]
        assert result.exit_code == 1 and last.startswith("Error: ") and f"broken.json {said}" in last
        assert "expected an object of settings" in last and not (tmp_path / "run" / "models").exists()


def test_a_pretraining_makes_the_encoder_that_stage_1_starts_from(
    tiny_data: Path, tiny_overlay: Path, tmp_path: Path
) -> None:
    few = ("--set", "pretrain#max_epochs=1", "--set", "pretrain#iterations_per_epoch=1")
    result = call(tiny_data, tiny_overlay, tmp_path, *few, stage="pretraining")
    encoder = tmp_path / "pretraining" / "vision_encoder.pt"
    assert result.exit_code == 0 and encoder.is_file(), result.output
    start = ("--set", f"stage1#vision_checkpoint={encoder}", "--set", "stage1#max_epochs=1")
    result = call(tiny_data, tiny_overlay, tmp_path, *start, stage="stage1")
    assert result.exit_code == 0, result.output
    started = json.loads((tmp_path / "stage1" / "run.json").read_text())["starts"][-1]
    assert started["settings"]["stage1#vision_checkpoint"] == str(encoder)


def test_settings_of_a_pretraining_are_no_settings_of_a_stage(tiny_data: Path, tiny_overlay: Path, tmp_path: Path):
    result = call(tiny_data, tiny_overlay, tmp_path, "--set", "pretrain#max_epochs=1", stage="stage1")
    assert result.exit_code == 1 and "pretrain#max_epochs" in result.output


@pytest.mark.parametrize("stage", ["pretraining", "finetune"])
def test_only_the_stages_are_followed_by_a_tracker(
    stage: str, tiny_data: Path, tiny_overlay: Path, tmp_path: Path
) -> None:
    result = call(tiny_data, tiny_overlay, tmp_path, "--tracking", "mlflow", stage=stage)
    assert result.exit_code == 2 and "--tracking goes with stage1, stage2 and all" in result.output
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_none_is_refused_by_name(tiny_data: Path, tiny_overlay: Path, tmp_path: Path) -> None:
    result = call(tiny_data, tiny_overlay, tmp_path, "--tracking", "foo")
    assert result.exit_code == 2 and "--tracking is 'foo'; expected mlflow" in result.output


@pytest.mark.parametrize("setting", ["output_dir=elsewhere", "device_name=cpu", "datalist=other.json"])
def test_what_an_option_sets_is_not_set_in_another_way(
    setting: str, tiny_data: Path, tiny_overlay: Path, tmp_path: Path
) -> None:
    result = call(tiny_data, tiny_overlay, tmp_path / "run", "--set", setting)
    said = f"--set {setting.partition('=')[0]}: the command has an option for it. Fix: give --"
    assert result.exit_code == 1 and said in result.output, result.output
    assert not (tmp_path / "run").exists()


def test_a_misspelt_setting_of_a_fine_tuning_leaves_no_weights_behind(tiny_data: Path, tmp_path: Path) -> None:
    """They would be taken for those of a fine-tuning, and other weights be refused there."""
    given = ["--datalist", str(tiny_data / "datalist.json"), "-o", str(tmp_path / "run"), "--set", "max_epoch=1"]
    result = CliRunner().invoke(train, ["finetune", *given])
    assert result.exit_code == 1 and "did you mean max_epochs" in result.output
    assert not (tmp_path / "run" / "models").exists()
