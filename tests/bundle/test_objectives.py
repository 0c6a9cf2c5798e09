"""Stage-1 objectives as overlays of the shipped config: train all, evaluate, export and segment, on tiny volumes."""

from __future__ import annotations

import csv
import functools
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.evaluate import evaluate
from cps4_monai.commands.export import export
from cps4_monai.commands.train import train
from cps4_monai.vision import load_prompted_vision

OBJECTIVES = {
    "clip": "CLIP objective on class prompts",
    "medclip": "MedCLIP objective on class prompts",
    "mgca": "MGCA objective on class prompts",
    "egma_mask_gaze": "EGMA objective on class prompts, label masks in place of gaze",
    "egma_no_gaze": "EGMA objective on class prompts, without gaze",
    "dusss_provider": "DuSSS objective on class prompts",
}
EACH = pytest.mark.parametrize("name", OBJECTIVES)
STAGES = ("stage1", "stage2")


@pytest.fixture(scope="module")
def run_of(tiny_data, tiny_overlay, tmp_path_factory):
    """Function that trains both stages by the command, once for all tests; gives the run's folder."""

    @functools.cache
    def make(name, *more):
        folder = tmp_path_factory.mktemp(name)
        options = ["--datalist", str(tiny_data / "datalist.json"), "-o", str(folder), "--overlay", name]
        options += ["--overlay", str(tiny_overlay), "--set", f"cache_dir={tiny_data / 'cache'}", *more]
        result = CliRunner().invoke(train, ["all", *options])
        assert result.exit_code == 0, result.output
        return folder

    return make


def metrics_of(path: Path) -> dict[str, float]:
    with path.open() as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


@EACH
def test_stage_1_trains_and_says_how_well_its_maps_lie(name, run_of):
    metrics = metrics_of(run_of(name) / "stage1" / "metrics.csv")
    assert {"prompt_map_dice", "loss", "train_loss", "pointing_game", "pointing_game_L5", "level_share"} <= set(metrics)
    assert 0 <= metrics["pointing_game"] <= 1 and 0 <= metrics["level_share"] <= 1
    assert metrics["loss"] > 0, "two validation volumes of two slices each are compared with one another"


@EACH
def test_the_file_between_the_stages_names_objective_and_stand_in(name, run_of):
    model = load_prompted_vision(run_of(name) / "stage1" / "prompted_vision.pt")
    assert model.objective == OBJECTIVES[name] and "classes that a labeled slice shows" in model.substitution
    facts = [json.loads((run_of(name) / stage / "plan.json").read_text())["trained_on"] for stage in STAGES]
    assert [one["stage_1"] for one in facts] == [OBJECTIVES[name]] * 2 and facts[1]["method"] == "CPS4"
    assert facts[0]["unlabeled_scans"] == 0 < facts[1]["unlabeled_scans"], "stage 1 reads labeled scans alone"


@EACH
def test_evaluation_and_bundle_of_its_run_name_it(name, run_of, tmp_path, monkeypatch):
    monkeypatch.setattr("cps4_monai.export.bundle.lay_out", lambda folder: None)  # ten seconds: test_model_zoo.py
    folder = run_of(name)
    bare = ["--set", "evaluate#report#max_pictures=0", "--set", "evaluate#attention=null", "--device", "cpu"]
    scored = CliRunner().invoke(evaluate, [str(folder), "-o", str(tmp_path / "scores"), *bare])
    assert scored.exit_code == 0 and f"stage 1: {OBJECTIVES[name]}\n" in scored.output, scored.output
    assert "stage 1, stand-in: " in scored.output
    assert OBJECTIVES[name] in (tmp_path / "scores" / "report.html").read_text()
    exported = CliRunner().invoke(export, ["--run", str(folder), "-o", str(tmp_path / "spine.zip")])
    assert exported.exit_code == 0, exported.output
    with zipfile.ZipFile(tmp_path / "spine.zip") as archive:
        card = next(item for item in archive.namelist() if item.endswith("docs/README.md"))
        assert OBJECTIVES[name] in archive.read(card).decode()


def overlay_of(name: str) -> dict[str, Any]:
    overlay = json.loads((find_bundle_root() / "configs" / "methods" / f"{name}.json").read_text())
    del overlay["_meta_"]
    return overlay


def test_rows_differ_in_stage_1_alone():
    """No overlay sets anything of stage 2, of the network, or of stage 1's encoders, batches, rates and epochs."""
    allowed = ("stage1#loss", "stage1#method", "stage1#network", "stage1#validate#additional_metrics#loss")
    named = ("train#provider#model#objective", "prompt_map#activation")
    named += ("prompt_map#presence_threshold",)  # see the next test
    for name in OBJECTIVES:
        overlay = overlay_of(name)
        own = {key for key in overlay if "#" not in key}  # settings that only the overlay's own objects read
        others = {key for key in overlay if not key.startswith(allowed) and key not in named} - own
        assert others == set(), name
        assert all(f"@{key}" in json.dumps(overlay) for key in own)
        assert overlay["prompt_map#activation"] == "sigmoid"


@pytest.mark.parametrize("name", [*OBJECTIVES, "dusss"])
def test_maps_are_gated_where_b_has_a_part_in_the_objective(name, run_tiny, tmp_path):
    """A is a presence only then: else it stays below the gate, or above it, by where b was started."""
    parsed = run_tiny("training_stage1", tmp_path, (name,), run=False).parser.get_parsed_content
    method, objective = parsed("stage1#method"), parsed("stage1#loss")
    model, method.total_updates = method.deployed.eval(), 4
    torch.manual_seed(0)
    label = torch.zeros(2, 1, *model.image_size, dtype=torch.uint8)
    label[0, :, :, :8], label[1, :, :, 8:16] = 2, 5
    image = torch.rand(2, 1, *model.image_size)
    losses = []
    for bias in (-2.5, -1.0):
        torch.nn.init.constant_(model.logit_bias, bias)
        loss = method.validation_loss(image, label) if objective is None else objective(model(image), label)
        losses.append(float(loss))
    without = losses[0] == pytest.approx(losses[1], abs=1e-4)
    gate = overlay_of(name).get("prompt_map#presence_threshold", 0.5)
    assert (gate is None) is (without and name != "mgca"), "MGCA sets b by the mean cosine"


def test_stage_2_named_after_one_objective_refuses_the_maps_of_another(run_of, run_tiny, tmp_path):
    file = str(run_of("medclip") / "stage1" / "prompted_vision.pt")
    workflow = run_tiny("training_stage2", tmp_path, ("mgca",), run=False, stage1_checkpoint=file)
    with pytest.raises(ValueError, match="trained by 'MedCLIP objective on class prompts'"):
        workflow.run()


def test_mgca_resumes_with_its_queue_and_prototypes(run_tiny, tmp_path):
    straight = {"stage1#max_epochs": 2}
    run_tiny("training_stage1", tmp_path / "a", ("mgca",), **straight)
    run_tiny("training_stage1", tmp_path / "b", ("mgca",), **{"stage1#max_epochs": 1})
    run_tiny("training_stage1", tmp_path / "b", ("mgca",), **straight)
    one, other = (torch.load(tmp_path / x / "stage1" / "resume.pt", weights_only=True) for x in "ab")
    ours, theirs = one["states"]["method"], other["states"]["method"]
    assert torch.equal(ours["extra"]["queue"], theirs["extra"]["queue"]) and ours["extra"]["queue"][:, -1].sum() == 8
    prototypes = ours["networks"]["model"]["prototypes"]
    assert torch.equal(prototypes, theirs["networks"]["model"]["prototypes"])
    scores = [metrics_of(tmp_path / x / "stage1" / "metrics.csv") for x in "ab"]
    assert scores[0]["loss"] == scores[1]["loss"]


def test_two_layer_heads_of_mgca_are_a_setting(run_tiny, tmp_path):
    run_tiny("training_stage1", tmp_path, ("mgca",), **{"stage1#network_def#projection": "mlp"})
    content = torch.load(tmp_path / "stage1" / "prompted_vision.pt", weights_only=True)
    assert content["arguments"]["projection"] == "mlp"
