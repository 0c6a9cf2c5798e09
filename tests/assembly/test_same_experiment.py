"""A resumed run refuses another experiment: every setting of ``train.json`` counts, save those named with a reason."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch

from cps4_monai.data.cache import CACHE_FORMAT
from cps4_monai.fingerprint import CHANGES_ON_THE_WAY, PLACES_AND_PACE, fingerprint

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
BASE = json.loads((BUNDLE / "configs" / "train.json").read_text("utf-8"))
TRAINERS = ("stage1#train#trainer", "train#trainer", "finetune#trainer")
# What no trainer is built from: run ids and checks, what MONAI's tools ask for.
NOT_OF_TRAINING = (
    *("imports", "initialize", "displayable_configs", "finetune_other_geometry", "train#inferer"),
    *("check_output_dir", "check_data", "check_start", "check_stage2", "check_best", "check_unlabeled", "plan"),
    "set_stage1_aside",
    *("training_stage1", "training_stage2", "training_finetune", "run"),
)
NO_SETTING = ("_requires_",)


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}#{key}".lstrip("#"))
    else:
        yield prefix


def within(setting: str, names: Any) -> bool:
    return any(setting == name or setting.startswith(f"{name}#") for name in names)


def other(value: Any) -> Any:
    """A value unlike this one, of its kind where that is easy."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 3]
    if isinstance(value, dict):
        return {"another": 1}
    return "$'another'" if isinstance(value, str) else 3


def changed(setting: str) -> bool:
    """Whether some trainer of the two sees another value of a setting."""
    config = copy.deepcopy(BASE)
    *parents, leaf = setting.split("#")
    node = config
    for part in parents:
        node = node[part]
    node[leaf] = other(node[leaf])
    return any(of(config, trainer) != of(BASE, trainer) for trainer in TRAINERS)


def of(config: dict[str, Any], trainer: str) -> dict[str, Any]:
    return fingerprint(config, trainer, but=CHANGES_ON_THE_WAY)


ALL = [s for s in leaves(BASE) if not within(s, NOT_OF_TRAINING) and s.rpartition("#")[2] not in NO_SETTING]


@pytest.mark.parametrize("setting", ALL)
def test_every_setting_counts_but_the_listed_ones(setting: str) -> None:
    assert changed(setting) != within(setting, {*PLACES_AND_PACE, *CHANGES_ON_THE_WAY})


def test_what_does_not_count_is_a_short_list_with_reasons() -> None:
    left_out = {**PLACES_AND_PACE, **CHANGES_ON_THE_WAY}
    assert len(left_out) < 30 and all(len(reason) > 10 for reason in left_out.values())
    assert {"text_pooling", "gradient_clip_norm", "finetune_from", "unlabeled_slices"} <= {
        s.split("#")[-1] for s in ALL
    }


@pytest.fixture
def ended(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a run of both stages."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("run_id", "setting", "value"),
    [
        ("training_stage1", "stage1#text_pooling", "mean"),
        ("training_stage1", "stage1#loss#binarise", "bilinear"),
        ("training_stage2", "gradient_clip_norm", 1.0),
        ("training_stage2", "train#lr_scheduler#_target_", "torch.optim.lr_scheduler.StepLR"),
        ("training_stage2", "unlabeled_slices", True),
        ("training_stage2", "finetune_from", "{run}/stage2/model.pt"),
        ("training_stage2", "train#method#text_weight", 0.25),
        ("training_stage2", "labeled_subjects", "one"),
    ],
)
def test_a_run_with_another_setting_is_refused_by_its_name(
    run_id: str, setting: str, value: Any, ended: Path, run_tiny: Callable[..., Any], tiny_data: Path
) -> None:
    given: dict[str, Any] = {setting: value.replace("{run}", str(ended)) if isinstance(value, str) else value}
    if setting.endswith("_target_"):
        given |= {"train#lr_scheduler": {"_target_": value, "optimizer": "@train#optimizer", "step_size": 1}}
        del given[setting]
    if setting == "labeled_subjects":
        datalist = json.loads((tiny_data / "datalist.json").read_text())
        given[setting] = [next(entry["subject"] for entry in datalist["training"] if "label" in entry)]
    with pytest.raises(ValueError, match=f"of a run with other settings.*{setting}"):
        run_tiny(run_id, ended, **given)


def test_a_longer_stage_1_does_not_replace_the_file_that_a_stage_2_was_begun_with(
    ended: Path, run_tiny: Callable[..., Any]
) -> None:
    file = ended / "stage1" / "prompted_vision.pt"
    before = file.read_bytes()
    epochs = json.loads((ended / "stage1" / "run.json").read_text())["starts"][-1]["epochs"]
    longer = {"stage1#max_epochs": epochs + 1}
    with pytest.raises(
        ValueError, match=rf"{epochs} are done: to train on would replace .*prompted_vision\.pt.*delete"
    ):
        run_tiny("training_stage1", ended, **longer)
    assert file.read_bytes() == before
    run_tiny("training_stage2", ended, max_epochs=2)  # goes on
    (ended / "stage2" / "resume.pt").unlink()
    trainer = run_tiny("training_stage1", ended, **longer).parser.get_parsed_content("stage1#train#trainer")
    assert trainer.state.epoch == epochs + 1


def test_a_run_does_not_go_on_with_labels_made_by_another_rule(
    ended: Path, run_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cps4_monai.assembly.context.CACHE_FORMAT", CACHE_FORMAT + 1)
    with pytest.raises(ValueError, match=f"format of slices and labels was {CACHE_FORMAT}, is {CACHE_FORMAT + 1}"):
        run_tiny("training_stage2", ended, max_epochs=2)


def test_a_run_goes_on_where_only_places_pace_and_length_changed(
    ended: Path, run_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    moved = ended.rename(tmp_path / "moved")
    given = {"max_epochs": 2, "log_every": 2, "cache_dir": str(tmp_path / "cache"), "pictured_structures": ["L5"]}
    workflow = run_tiny("training_stage2", moved, num_workers=1, tracking=None, **given)
    assert workflow.parser.get_parsed_content("train#trainer").state.epoch == 2
    assert "resumed from" in (moved / "stage2" / "run.log").read_text()


def test_a_run_goes_on_with_weights_to_start_from_that_were_moved_and_with_no_others(
    tiny_run: Path, run_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    def start(place: Path, epochs: int) -> int:
        given = {"stage1_checkpoint": str(tiny_run / "stage1" / "prompted_vision.pt"), "max_epochs": epochs}
        workflow = run_tiny("training_stage2", tmp_path / "run", finetune_from=str(place / "model.pt"), **given)
        return int(workflow.parser.get_parsed_content("train#trainer").state.epoch)

    here, moved = tmp_path / "here", tmp_path / "moved"
    here.mkdir()
    for name in ("model.pt", "plan.json"):
        shutil.copy(tiny_run / "stage2" / name, here)
    assert start(here, 1) == 1
    here.rename(moved)
    assert start(moved, 2) == 2
    state = torch.load(moved / "model.pt", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, moved / "model.pt")
    with pytest.raises(ValueError, match=r"of a run with other settings.*finetune_from"):
        start(moved, 3)


def test_a_run_goes_on_with_the_stage_1_file_that_it_began_with_and_with_no_other_at_its_place(
    ended: Path, run_tiny: Callable[..., Any]
) -> None:
    file = ended / "stage1" / "prompted_vision.pt"
    content = torch.load(file, weights_only=True)
    content["weights"]["logit_bias"] += 0.5  # settings, classes and pixels are the same
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"prompted_vision\.pt: this stage-1 file has the SHA-256"):
        run_tiny("training_stage2", ended, max_epochs=2)


def test_the_plain_form_compares_them_too(tiny_data: Path, tiny_overlay: Path, tmp_path: Path) -> None:
    names = ("train.json", "methods/supervised.json")
    configs = [*(str(BUNDLE / "configs" / name) for name in names), str(tiny_overlay)]
    given = {
        "bundle_root": str(BUNDLE),
        "datalist": str(tiny_data / "datalist.json"),
        "dataset_dir": str(tiny_data),
        "output_dir": str(tmp_path),
        "cache_dir": str(tiny_data / "cache"),
        "iterations_per_epoch": 1,
    }
    monai.bundle.run("training_stage2", config_file=configs, **given)
    with pytest.raises(RuntimeError) as raised:
        monai.bundle.run("training_stage2", config_file=configs, gradient_clip_norm=1.0, **given)
    assert "gradient_clip_norm was None, is 1.0" in str(raised.value.__cause__)
