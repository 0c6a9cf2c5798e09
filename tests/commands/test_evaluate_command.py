"""`cps4 evaluate`."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.commands.evaluate import evaluate
from cps4_monai.commands.export import export
from cps4_monai.commands.train import train
from cps4_monai.export import weights_of_run
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.bundle import open_bundle
from cps4_monai.inference.segment import Segmenter
from cps4_monai.plan import Plan, plan_of, write_plan


@pytest.fixture()
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "evaluation")))


def test_segments_scores_and_reports_the_test_subjects(tiny_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tiny_run), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"report: {tmp_path / 'out' / 'report.html'}\n")
    assert len(list((tmp_path / "out" / "predictions").glob("*.nii.gz"))) == 2
    tables = {"structures.csv", "cases.csv", "summary.csv"}
    assert {*tables, "comparison.csv", "report.html", "config.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert tables < {path.name for path in (tmp_path / "out" / "argmax").iterdir()}
    assert [line.split(":")[0] for line in result.output.splitlines()[-3:-1]] == [
        "Dice (b), levels decoded",
        "Dice (b), plain argmax",
    ]


def test_the_scored_label_maps_are_those_of_cps4_segment(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tiny_run), "-o", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    segmenters = {raw: Segmenter(tiny_run / "stage2" / "model.pt", device="cpu", raw=raw) for raw in (False, True)}
    for path in (tmp_path / "predictions").glob("*.nii.gz"):
        scan = next(tiny_data.rglob(path.name.replace("_dseg", "")))
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), segmenters[False](scan, qc=False).labels)
        argmax = np.asarray(nib.load(tmp_path / "argmax" / "predictions" / path.name).dataobj)
        assert (argmax == segmenters[True](scan, qc=False).labels).mean() > 0.999
    table = pd.read_csv(tmp_path / "comparison.csv")
    dice = table[table["metric"] == "dice_b"].set_index("output")["mean"]
    assert list(dice.index) == ["levels decoded", "plain argmax"]
    for folder, name in ((tmp_path, "levels decoded"), (tmp_path / "argmax", "plain argmax")):
        assert dice[name] == pytest.approx(pd.read_csv(folder / "cases.csv")["dice_b"].mean(), abs=1e-5)


@pytest.mark.parametrize("side", ["training", "validation"])
def test_test_scans_that_the_run_knows_are_refused(tiny_run: Path, tiny_data: Path, tmp_path: Path, side: str) -> None:
    """As where a data set was split anew since: figures of them would be no test."""
    content = json.loads((tiny_data / "datalist.json").read_text())
    known = next(entry for entry in content[side] if entry.get("labeled", side == "validation"))
    content = {**content, "training": [], "validation": [], "test": [*content["test"], known]}
    split_anew = tiny_data / f"anew_{side}.json"
    split_anew.write_text(json.dumps(content))
    arguments = [str(tiny_run), "--datalist", str(split_anew), "-o", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(evaluate, arguments)
    split_anew.unlink()
    trained, chosen = (1, 0) if side == "training" else (0, 1)
    assert result.exit_code == 1 and not (tmp_path / "out" / "cases.csv").exists(), result.output
    assert f"label maps of {trained} and chose its weights by {chosen}" in result.output


def test_a_datalist_of_other_structures_is_refused_before_the_network_runs(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    content = json.loads((tiny_data / "datalist.json").read_text())
    other = tiny_data / "cord.json"
    other.write_text(json.dumps({**content, "structures": {"1": "cord"}}))
    arguments = ["--datalist", str(other), "-o", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(evaluate, [str(tiny_run), *arguments])
    other.unlink()
    assert result.exit_code == 1 and "code 1 'cord', not 'S'" in result.output
    assert not (tmp_path / "out" / "predictions").exists()


def test_without_a_whole_record_it_is_said_that_nothing_is_known(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "stage2" / "run.json").write_bytes(b"damaged")
    result = CliRunner().invoke(evaluate, [str(run), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "run.json cannot be read" in result.output + "".join(capsys.readouterr())


def test_each_section_has_a_folder_of_its_own_and_a_run_that_cannot_be_written_to_is_scored_elsewhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(evaluate, [str(run), "--device", "cpu", "--section", "validation"])
    assert result.exit_code == 0 and f"report: {run / 'evaluation_validation' / 'report.html'}" in result.output
    assert not (run / "evaluation").exists()
    before = sorted(run.rglob("*"))
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK or Path(path) != run)
    result = CliRunner().invoke(evaluate, [str(run), "--device", "cpu", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0 and (tmp_path / "out" / "report.html").is_file(), result.output
    assert sorted(run.rglob("*")) == before


def test_a_run_without_weights_of_stage_2_is_told_what_is_missing(run: Path) -> None:
    (run / "stage2" / "model.pt").unlink()
    result = CliRunner().invoke(evaluate, [str(run)])
    assert result.exit_code == 1 and "goes on where it stopped" in result.output and not (run / "evaluation").exists()


@pytest.fixture()
def tuned(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> Path:
    """A fine-tuning of the tiny run's weights, ended."""
    data = ["--datalist", str(tiny_data / "datalist.json"), "-o", str(tmp_path / "tuned"), "--device", "cpu"]
    settings = ("max_epochs=1", "iterations_per_epoch=1", "num_workers=0", "min_free_gib=0")
    weights = ["--weights", str(tiny_run / "stage2" / "model.pt"), *(f"--set={one}" for one in settings)]
    result = CliRunner().invoke(train, ["finetune", *data, *weights])
    assert result.exit_code == 0, result.output
    return tmp_path / "tuned"


def test_a_fine_tuning_is_scored_and_shared_as_any_other_run(tuned: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tuned), "--device", "cpu"])
    assert result.exit_code == 0 and f"report: {tuned / 'evaluation' / 'report.html'}" in result.output, result.output
    weights = tuned / "models" / "model_finetuned.pt"
    assert json.loads((tuned / "evaluation" / "evaluation.json").read_text())["weights_sha256"] == file_sha256(weights)
    assert "finetune: " in (tuned / "evaluation" / "report.html").read_text(encoding="utf-8"), "its own curves"
    result = CliRunner().invoke(export, ["--run", str(tuned), "-o", str(tmp_path / "spine.zip")])
    assert result.exit_code == 0, result.output
    bundle = open_bundle(tmp_path / "spine.zip")
    assert bundle.sha256 == file_sha256(weights) and bundle.plan.to_dict() == plan_of(weights).to_dict()
    with zipfile.ZipFile(tmp_path / "spine.zip") as archive:
        texts = {name.split("/", 1)[1]: archive.read(name).decode() for name in archive.namelist() if "docs/" in name}
        metadata = json.loads(archive.read("spine_mri_cps4_segmentation/configs/metadata.json"))
    (told,) = bundle.plan.trained_on["fine_tuned"]
    assert all(told in texts[page] for page in ("docs/README.md", "docs/data_license.txt"))
    assert metadata["eval_metrics"]["conditions"].startswith("2 test subjects of ")


def test_fine_tuned_weights_that_stayed_behind_are_shared_with_the_reason(
    tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decision = json.loads((tuned / "finetune" / "deployment.json").read_text())
    assert not decision["deployed"] and decision["why"]
    with caplog.at_level("WARNING"):
        assert weights_of_run(tuned) == tuned / "models" / "model_finetuned.pt"
    assert f"did not take the place of those before them: {decision['why']}" in caplog.text


def test_a_fine_tuning_that_has_not_ended_is_no_run_to_score_or_share(tuned: Path, tmp_path: Path) -> None:
    """Its best weights so far are those of another training than the plan beside them tells of."""
    weights = tuned / "models" / "model_finetuned.pt"
    torch.save({name: value + 1 for name, value in torch.load(weights, weights_only=True).items()}, weights)
    for command in (evaluate, export):
        given = [str(tuned)] if command is evaluate else ["--run", str(tuned), "-o", str(tmp_path / "spine.zip")]
        result = CliRunner().invoke(command, given)
        assert result.exit_code == 1 and "expected those of a fine-tuning that has ended" in result.output
    assert not (tmp_path / "spine.zip").exists() and not (tuned / "evaluation").exists()


def test_another_spacing_than_the_weights_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tiny_run), "-o", str(tmp_path), "--set", "spacing_mm=0.6"])
    assert result.exit_code == 1 and "spacing_mm is 0.6, of the weights 7.5" in result.output.splitlines()[-1]


def test_what_an_option_sets_is_not_set_in_another_way(tiny_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tiny_run), "-o", str(tmp_path / "a"), "--set", "evaluation_dir=b"])
    assert result.exit_code == 1 and "--set evaluation_dir: the command has an option" in result.output
    assert not (tmp_path / "a").exists()


def test_a_folder_that_holds_a_training_or_somebodys_table_is_refused_before_any_work(
    run: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config = (run / "config.json").read_bytes()
    result = CliRunner().invoke(evaluate, [str(tiny_run), "-o", str(run), "--device", "cpu"])
    assert result.exit_code == 1 and f"{run} holds a training (stage1/run.json, stage2/run.json)" in result.output
    assert (run / "config.json").read_bytes() == config and not (run / "predictions").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.csv").write_text("my own table\n")
    result = CliRunner().invoke(evaluate, [str(tiny_run), "-o", str(tmp_path / "mine"), "--device", "cpu"])
    assert result.exit_code == 1 and "summary.csv" in result.output
    assert (tmp_path / "mine" / "summary.csv").read_text() == "my own table\n"
    assert not (tmp_path / "mine" / "predictions").exists()


def test_another_section_of_another_datalist(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_run), "--datalist", str(tiny_data / "datalist.json"), "--section", "validation"]
    result = CliRunner().invoke(evaluate, [*arguments, "-o", str(tmp_path), "--set", "report_title=Mine"])
    assert result.exit_code == 0, result.output
    assert "<title>Mine" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_with_a_labeled_share_is_evaluated_on_any_datalist_and_twice_in_one_folder(
    run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Other scans in one folder: the predictions of the first are no failures of the second."""
    config = json.loads((run / "config.json").read_text())
    own = json.loads((tiny_data / "datalist.json").read_text())
    labeled = next(entry["subject"] for entry in own["training"] if "label" in entry)
    (run / "config.json").write_text(json.dumps({**config, "labeled_share": "10", "labeled_subjects": [labeled]}))
    other = {**own, "training": own["test"], "subsets": {}}
    datalist = tmp_path / "other.json"
    for entries in (own["test"], own["validation"]):
        datalist.write_text(json.dumps({**other, "training": [], "test": [], "validation": entries}))
        told = [
            "--datalist",
            str(datalist),
            "--dataset-dir",
            str(tiny_data),
            "--section",
            "validation",
            "--device",
            "cpu",
        ]
        result = CliRunner().invoke(evaluate, [str(run), *told])
        assert result.exit_code == 0, result.output
    assert pd.read_csv(run / "evaluation_validation" / "failures.csv").empty
    assert len(pd.read_csv(run / "evaluation_validation" / "cases.csv")) == len(own["validation"])


def test_scans_without_geometry_get_the_spacing_that_the_run_assumed(
    run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    content = json.loads((tiny_data / "datalist.json").read_text())
    entry = content["test"][0]
    for name in (entry["image"], entry["label"]):
        scan = nib.load(tiny_data / name)
        header = scan.header.copy()
        header.set_sform(None, 0)
        header.set_qform(None, 0)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), None, header), tmp_path / name)
    (tmp_path / "datalist.json").write_text(json.dumps({"test": [entry], "training": [], "validation": []}))
    told = [str(run), "--datalist", str(tmp_path / "datalist.json"), "--device", "cpu"]
    refused = CliRunner().invoke(evaluate, told)
    assert refused.exit_code == 1 and "assume" in refused.output
    config = json.loads((run / "config.json").read_text())
    config["cache"]["assume_spacing"] = [4.0, 0.9, 0.9]
    (run / "config.json").write_text(json.dumps(config))
    result = CliRunner().invoke(evaluate, told)
    assert result.exit_code == 0, result.output
    (record,) = (run / "evaluation" / "predictions").rglob("*.json")
    assert json.loads(record.read_text())["Settings"]["AssumeSpacing"] == [4.0, 0.9, 0.9]
    assert len(pd.read_csv(run / "evaluation" / "cases.csv")) == 1


def test_what_nobody_foresaw_names_the_file_of_its_traceback(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **settings: object) -> None:
        raise KeyError("a table")

    monkeypatch.setattr("cps4_monai.report.predictions.report_predictions", fails)
    result = CliRunner().invoke(evaluate, [str(run), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert result.exit_code == 1 and f"the traceback is in {run / 'error.log'}" in result.output


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tmp_path)])
    assert (
        result.exit_code == 1
        and result.output.startswith("Error: ")
        and "output folder of `cps4 train`" in result.output
    )


@pytest.mark.parametrize("ordered", [True, False])
def test_levels_are_decoded_where_the_anatomy_of_the_weights_has_some(
    ordered: bool, run_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    structures = [Structure(1, "a", "a", "other", 0 if ordered else None)]
    anatomy = Anatomy((Structure(0, "background", "background", "background"), *structures))
    write_plan(tmp_path / "stage2", Plan(anatomy))
    torch.save({}, tmp_path / "stage2" / "model.pt")
    workflow = run_tiny("predict", tmp_path, ("evaluate",), run=False)
    assert workflow.parser.get_parsed_content("evaluation_decoding") is ordered
