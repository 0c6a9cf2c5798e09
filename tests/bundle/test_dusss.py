"""DuSSS by its overlays: both stages by the command, then evaluation, export and segmentation; its variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cps4_monai.commands.train import train
from cps4_monai.networks import ResUNet

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs" / "methods"


def overlay(name: str) -> dict[str, object]:
    return json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tiny_data, tiny_overlay, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dusss")
    arguments = ["all", "--datalist", str(tiny_data / "datalist.json"), "-o", str(folder), "--device", "cpu"]
    overlays = ["--overlay", "dusss", "--overlay", str(tiny_overlay), "--set", f"cache_dir={tiny_data / 'cache'}"]
    result = CliRunner().invoke(train, [*arguments, *overlays], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def test_the_command_trains_both_stages(run):
    stage1 = torch.load(run / "stage1" / "prompted_vision.pt", weights_only=True)
    assert stage1["objective"]["name"] == "DuSSS objective on class prompts"
    assert "labeled slice" in stage1["objective"]["substitution"]
    methods = {
        s: torch.load(run / s / "resume.pt", weights_only=True)["states"]["method"] for s in ("stage1", "stage2")
    }
    assert methods["stage1"]["networks"].keys() == {"model", "momentum"} and methods["stage1"]["updates"] == 2
    assert methods["stage2"]["networks"].keys() == {"student", "teacher"} and methods["stage2"]["updates"] == 2
    logged = {stage: (run / stage / "metrics.csv").read_text() for stage in methods}
    assert "loss_cross_modal" in logged["stage1"] and "pointing_game" in logged["stage1"]
    assert "loss_text_teacher" in logged["stage2"] and "decoded_val_dice" in logged["stage2"]
    state = torch.load(run / "stage2" / "model.pt", weights_only=True)
    ResUNet(1, 20, features=(4, 8)).load_state_dict(state, strict=True)


def test_the_learning_rate_of_stage_1_follows_the_objective_on_validation_slices(run_tiny, tmp_path):
    parsed = run_tiny("training_stage1", tmp_path, ("dusss",)).parser.get_parsed_content
    rows = [line.split(",") for line in (tmp_path / "stage1" / "metrics.csv").read_text().splitlines()]
    (stored,) = [float(row[-1]) for row in rows if row[-2] == "loss"]
    slices = [parsed("validate#dataset")[index] for index in range(2)]  # two volumes of two slices
    image, label = (torch.cat([volume[key].transpose(0, 1) for volume in slices]) for key in ("image", "label"))
    order = [0, 2, 1, 3]  # batches of two: every second slice
    pairs = [(torch.as_tensor(image)[order[i : i + 2]], torch.as_tensor(label)[order[i : i + 2]]) for i in (0, 2)]
    method = parsed("stage1#method")
    method.networks["model"].eval()
    expected = sum(float(method.validation_loss(*pair)) for pair in pairs) / 2
    assert stored == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("stage", ["stage1", "train"])
def test_with_the_settings_of_the_paper_all_parts_of_both_stages_learn_at_one_rate_and_stop_early(
    stage, run, run_tiny, tmp_path
):
    overlays, file = ("dusss", "dusss_paper"), str(run / "stage1" / "prompted_vision.pt")
    run_id = {"stage1": "training_stage1", "train": "training_stage2"}[stage]
    parsed = run_tiny(run_id, tmp_path, overlays, run=False, stage1_checkpoint=file).parser.get_parsed_content
    assert parsed("stage1#lr_pretrained") == parsed("stage1#lr_new") == parsed("learning_rate") == 3e-4
    assert {group["lr"] for group in parsed(f"{stage}#optimizer").param_groups} == {3e-4}
    assert parsed("stage1#stage" if stage == "stage1" else "train#stage").early_stopping_patience == 20


def test_both_overlays_have_the_same_stage_1():
    system, provider = overlay("dusss"), overlay("dusss_provider")
    del provider["_meta_"]
    assert provider == {key: system[key] for key in provider}


@pytest.mark.parametrize(
    ("variant", "stage", "expected"),
    [
        ("dusss_no_sss", "stage1", {"uncertainty_weight": 0.0}),
        ("dusss_no_imc", "stage1", {"intra_modal_weight": 0.0, "cross_modal_weight": 1.0}),
        ("dusss_masked", "stage1", {"masked_weight": 0.1}),
        ("dusss_no_text", "stage2", {"text_share": 0.0, "text_weight": 0.0, "vision": None}),
        ("dusss_no_affinity", "stage2", {"affinity_rounds": 0}),
        ("dusss_paper", "stage1", {"local_weight": pytest.approx(0.2 / 6), "intra_modal_weight": pytest.approx(1 / 6)}),
        ("dusss_paper", "stage2", {"deployed_name": "student", "text_share": 0.5}),
    ],
)
def test_each_variant_trains_with_what_it_names(variant, stage, expected, run, run_tiny, tmp_path):
    needs_stage1 = stage == "stage2" and variant != "dusss_no_text"
    given = {"stage1_checkpoint": str(run / "stage1" / "prompted_vision.pt")} if needs_stage1 else {}
    workflow = run_tiny(f"training_{stage}", tmp_path, ("dusss", variant), **given)
    method = workflow.parser.get_parsed_content("stage1#method" if stage == "stage1" else "train#method")
    assert {name: getattr(method, name) for name in expected} == expected
    assert method.updates == 2
    said = json.loads((tmp_path / stage / "plan.json").read_text())["trained_on"].get("stage_1")
    assert said == (None if variant == "dusss_no_text" else "DuSSS objective on class prompts")
