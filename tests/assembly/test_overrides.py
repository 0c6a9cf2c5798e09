"""What a user of MONAI overrides: each once, by the id that it has always had."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.handlers import MeanDice, StatsHandler
from monai.networks.nets import BasicUNet

from cps4_monai.assembly import stage1, stage2
from cps4_monai.assembly.chosen_by import check_chosen_by

SUPERVISED = ("methods/supervised",)


@pytest.fixture
def built(run_tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Function that gives what an id is built to, with settings: ``built(id, overlays, **settings)``."""

    def build(name: str, overlays: tuple[str, ...] = SUPERVISED, **given: Any) -> Any:
        workflow = run_tiny("training_stage2", tmp_path, overlays, run=False, **given)
        return workflow.parser.get_parsed_content(name)

    return build


def test_optimiser(built: Callable[..., Any]) -> None:
    trainer = built("train#trainer", **{"train#optimizer#_target_": "torch.optim.AdamW", "learning_rate": 0.5})
    assert isinstance(trainer.optimizer, torch.optim.AdamW) and trainer.optimizer.param_groups[0]["lr"] == 0.5
    momentum = {"_target_": "torch.optim.SGD", "params": "$@train#network.parameters()", "lr": 0.1, "momentum": 0.9}
    assert built("train#trainer", **{"train#optimizer": momentum}).optimizer.defaults["momentum"] == 0.9


@pytest.mark.parametrize("stage", ["train", "stage1"])
def test_scheduler_steps_the_learning_rate(stage: str, run_tiny: Callable[..., Any], tmp_path: Path) -> None:
    chosen = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "optimizer": f"@{stage}#optimizer", "gamma": 0.5}
    run_id = "training_stage2" if stage == "train" else "training_stage1"
    workflow = run_tiny(run_id, tmp_path, SUPERVISED, **{f"{stage}#lr_scheduler": chosen, "learning_rate": 0.5})
    scheduler = workflow.parser.get_parsed_content(f"{stage}#lr_scheduler")
    assert scheduler.last_epoch == 1 and scheduler.get_last_lr()[0] == pytest.approx(0.5 * scheduler.base_lrs[0])


def test_a_schedule_of_stage_1_that_asks_for_a_loss_gets_it(run_tiny: Callable[..., Any], tmp_path: Path) -> None:
    workflow = run_tiny("training_stage1", tmp_path)
    scheduler = workflow.parser.get_parsed_content("stage1#lr_scheduler")
    logged = (tmp_path / "stage1" / "metrics.csv").read_text().splitlines()
    (loss,) = [float(line.split(",")[-1]) for line in logged if ",loss," in line]
    assert scheduler.best == pytest.approx(loss, rel=1e-4)


def test_network(built: Callable[..., Any]) -> None:
    unet = {"_target_": "BasicUNet", "spatial_dims": 2, "out_channels": 20, "features": [4, 4, 4, 4, 4, 4]}
    assert isinstance(built("train#trainer", network_def=unet).method.deployed, BasicUNet)
    assert built("train#trainer", features=[4, 12]).method.deployed.head.in_channels == 4


def test_loss_options(built: Callable[..., Any]) -> None:
    loss = built("stage1#loss", **{"stage1#loss#negatives": "present"})
    assert built("stage1#loss", **{"stage1#pixel_weight": 0.25}).pixel_weight == 0.25
    assert loss.pixel.absent_weight == 0.0, "absent classes are no negatives"
    method = built("train#method", (), **{"train#method#text_weight": 0.25, "train#method#enhanced_target": "hard"})
    assert (method.text_weight, method.target_mode) == (0.25, "hard")


def test_epochs_by_their_own_id_and_by_that_of_monais_tools(built: Callable[..., Any]) -> None:
    assert built("train#trainer", max_epochs=7).state.max_epochs == 7
    trainer = built("train#trainer", **{"train#trainer#max_epochs": 9})
    assert trainer.state.max_epochs == 9 and trainer.method.total_updates == 18


@pytest.mark.parametrize("section", ["train", "validate", "stage1#train", "stage1#validate"])
def test_added_handlers_act(section: str, run_tiny: Callable[..., Any], tmp_path: Path) -> None:
    overlay = tmp_path / "mine.json"
    saver: dict[str, Any] = {"_target_": "CheckpointSaver", "save_dir": str(tmp_path), "save_dict": {"net": "@network"}}
    saver |= {"save_final": True, "final_filename": "mine.pt"}
    overlay.write_text(json.dumps({f"+{section}#handlers": [saver]}))
    run_id = "training_stage1" if section.startswith("stage1") else "training_stage2"
    run_tiny(run_id, tmp_path / "run", (*SUPERVISED, str(overlay)))
    assert (tmp_path / "mine.pt").is_file()


def test_validation_score_and_data(built: Callable[..., Any], tiny_data: Path) -> None:
    metric = {
        "val_mean_dice": {"_target_": "MeanDice", "output_transform": "$monai.handlers.from_engine(['pred', 'label'])"}
    }
    evaluator = built("validate#evaluator", **{"validate#key_metric": metric, "validate#best#metric": "val_mean_dice"})
    assert evaluator.state.key_metric_name == "val_mean_dice" and evaluator.best.metric == "val_mean_dice"
    content = json.loads((tiny_data / "datalist.json").read_text())["test"][:1]
    scans = [{key: str(tiny_data / entry[key]) for key in ("image", "label")} for entry in content]
    given = {"train#dataset#data": scans, "validate#dataset#data": scans}
    assert len(built("train#dataset", **given).entries) == 1
    assert len(built("validate#evaluator", **given).data_loader.dataset) == 1


@pytest.mark.parametrize(
    ("run_id", "setting", "name", "meant"),
    [
        ("training_stage2", "validate#best#metric", "decoded_val_dise", "decoded_val_dice"),
        ("training_stage1", "stage1#validate#best#metric", "prompt_map_dise", "prompt_map_dice"),
        ("run", "validate#best#metric", "val_dise", "val_dice"),
    ],
)
def test_a_metric_that_no_validation_gives_is_refused_before_anything_is_trained(
    run_id: str, setting: str, name: str, meant: str, run_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    told = rf"{setting} is '{name}'.*expected one of .*'{meant}'.*did you mean '{meant}'"
    with pytest.raises(ValueError, match=told):
        run_tiny(run_id, tmp_path, () if run_id == "run" else SUPERVISED, **{setting: name})
    assert not list(tmp_path.rglob("run.json")), "no epoch began"


@pytest.mark.parametrize("name", ["dice_c", "dice_b_L5", "iou_a"])
def test_what_a_metric_gives_beside_its_own_value_may_choose(name: str, run_tiny: Callable[..., Any], tmp_path: Path):
    run_tiny("training_stage2", tmp_path, SUPERVISED, **{"validate#best#metric": name})
    assert (tmp_path / "stage2" / "model.pt").is_file()


@pytest.mark.parametrize(("stage", "section"), [(stage1, "stage1#validate"), (stage2, "validate")])
def test_every_value_of_a_validation_is_known_before_it(
    stage: Any, section: str, run_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(stage, "check_chosen_by", lambda name, metrics, *_, **__: asked.append(metrics))
    run_id = "training_stage1" if stage is stage1 else "training_stage2"
    workflow = run_tiny(run_id, tmp_path, SUPERVISED, **{"validate#best#metric": "decoded_val_dice"})
    given = workflow.parser.get_parsed_content(f"{section}#evaluator").state.metrics
    assert len(given) > 15
    for name in given:
        check_chosen_by(name, asked[-1])
    with pytest.raises(ValueError, match=r"x#metric is 'dice_b_L55'.*e\.g\. '.*did you mean"):
        check_chosen_by("dice_b_L55", asked[-1], setting="x#metric")


def test_a_name_that_only_a_handler_of_ones_own_can_give_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_chosen_by("kappa", {"val_mean_dice": MeanDice()}, [lambda engine: None])
    assert "is 'kappa', and the validation has no such metric; expected one of ['val_mean_dice']" in caplog.text
    with pytest.raises(ValueError, match="is 'kappa'"):
        check_chosen_by("kappa", {"val_mean_dice": MeanDice()}, [StatsHandler()])


def test_a_threshold_of_another_form_is_refused_before_anything_is_trained(built: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="Failed to instantiate") as caught:
        built("context", **{"level_thresholds": {"step_mm": 5}})
    assert "level_thresholds: step_mm is 5; expected two numbers" in str(caught.value.__cause__)
