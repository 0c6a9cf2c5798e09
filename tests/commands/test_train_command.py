"""`cps4 train`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

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


def test_errors_are_one_line(tiny_data: Path, tiny_overlay: Path, tmp_path: Path) -> None:
    for more, text in (
        (["--set", "stage1#max_epoch=3"], "did you mean stage1#max_epochs"),
        (["--set", "max_epochs"], "not of the form ID=VALUE"),
        (["--overlay", "men_teacher"], "no config called 'men_teacher'"),
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
