"""Fine-tuning that was stopped goes on bit for bit; with other labels, weights or settings it begins anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.assembly.context import Setup
from cps4_monai.assembly.finetune import own_context
from cps4_monai.handlers.bundle_weights import BundleWeights
from cps4_monai.networks import ResUNet, describe
from cps4_monai.plan import Plan, plan_of, write_plan
from cps4_monai.precision import Precision

EPOCHS = 4


@pytest.fixture
def tune(run_tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Function that fine-tunes in a folder of that name and gives its trainer; ``kill_at``: stopped in that iteration.

    The weights to start from are made once: a small network, the same for all folders.
    """
    torch.manual_seed(3)
    network = ResUNet(features=(4, 8))
    start = tmp_path / "start"
    start.mkdir()
    torch.save(network.state_dict(), start / "model.pt")
    write_plan(start, Plan(MRSPINESEG, (), 7.5, (64, 32), network=describe(network)))

    def run(name: str, kill_at: int | None = None, **given: Any) -> Any:
        models = tmp_path / name / "models"
        if not models.is_dir():
            shutil.copytree(start, models)
        given = {
            "max_epochs": EPOCHS,
            "finetune#weights": str(models / "model.pt"),
            "finetune#learning_rate": 0.01,
            **given,
        }
        workflow = run_tiny("training_finetune", tmp_path / name, ("supervised",), run=False, **given)
        trainer = workflow.parser.get_parsed_content("finetune#trainer")
        if kill_at is not None:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=kill_at), _kill)
            with pytest.raises(KeyboardInterrupt):
                workflow.run()
            return trainer
        workflow.run()
        workflow.finalize()
        return trainer

    return run


def _kill(engine: Any) -> None:
    raise KeyboardInterrupt


def bits(trainer: Any) -> dict[str, torch.Tensor]:
    """Weights and moments of Adam, where training has ended."""
    state = trainer.method.state_dict()
    moments = state["optimizers"]["student"]["state"]
    return {f"network.{key}": value for key, value in state["networks"]["student"].items()} | {
        f"adam.{index}.{key}": value for index, one in moments.items() for key, value in one.items()
    }


def log_of(folder: Path) -> list[str]:
    return [line for line in (folder / "finetune" / "metrics.csv").read_text().splitlines() if "seconds" not in line]


def decision_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "finetune" / "deployment.json").read_text())


def test_weights_of_another_anatomy_are_fine_tuned_though_the_config_pictures_the_spine(tmp_path: Path) -> None:
    """What is pictured by default are structures of the config's anatomy, which the weights need not know."""
    cord = Anatomy([Structure(0, "background", "background", "background"), Structure(1, "cord", "cord", "other")])
    (tmp_path / "model.pt").write_bytes(b"")
    write_plan(tmp_path, Plan(cord, (), 7.5, (64, 32)))
    setup = Setup(device=torch.device("cpu"), precision=Precision(), pictured=("L5", "L4"))
    context = own_context(setup, tmp_path / "model.pt", str(tmp_path / "cache"))
    assert context.anatomy.names == cord.names and not context.pictured


@pytest.mark.parametrize("iteration", [5, 6])  # within the third epoch, of two iterations, and at its end
def test_stopped_and_started_again_it_is_the_undisturbed_one_bit_for_bit(
    iteration: int, tune: Callable[..., Any], tmp_path: Path
) -> None:
    whole = tune("whole")
    tune("killed", kill_at=iteration)
    assert (tmp_path / "killed" / "finetune" / "resume.pt").is_file()
    resumed = tune("killed")
    assert f"2 of {EPOCHS} epochs done" in (tmp_path / "killed" / "finetune" / "run.log").read_text()
    expected, found = bits(whole), bits(resumed)
    assert expected.keys() == found.keys() and len(found) > 20
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    best = [(tmp_path / name / "models" / "model_finetuned.pt").read_bytes() for name in ("whole", "killed")]
    assert best[0] == best[1]
    assert decision_of(tmp_path / "whole") == decision_of(tmp_path / "killed")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")


def test_stopped_after_its_last_epoch_it_decides_when_started_again_and_trains_nothing(
    tune: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(BundleWeights, "deploy", lambda self: _kill(None))
        with pytest.raises(KeyboardInterrupt):
            tune("run")
    assert not (tmp_path / "run" / "finetune" / "deployment.json").exists()
    tune("run")
    tune("whole")
    assert decision_of(tmp_path / "run") == decision_of(tmp_path / "whole")
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")
    assert len(json.loads((tmp_path / "run" / "finetune" / "run.json").read_text())["starts"]) == 1


def test_one_that_has_ended_is_fine_tuned_once_more(tune: Callable[..., Any], tmp_path: Path) -> None:
    for times in (1, 2):
        assert tune("run", max_epochs=1).state.iteration == 2
        assert not (tmp_path / "run" / "finetune" / "resume.pt").exists()
        starts = json.loads((tmp_path / "run" / "finetune" / "run.json").read_text())["starts"]
        assert len(starts) == times, "each has trained"
    assert len(plan_of(tmp_path / "run" / "models" / "model.pt").trained_on["fine_tuned"]) == 1, "of the same weights"


def test_classes_of_the_weights_that_the_labels_lack_are_said(
    tune: Callable[..., Any], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    path = tmp_path / "data" / "datalist.json"
    content = json.loads(path.read_text())
    for entry in content["training"]:
        entry["classes"] = [code for code in range(1, 20) if code != 7]
    path.write_text(json.dumps(content))
    tune("run", max_epochs=1, datalist=str(path), dataset_dir=str(tmp_path / "data"))
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "unlearn" in line]
    assert "finetune: training starts from" in told and "shows its classes 7 (T12): they are background" in told
    assert told.endswith("else mark them 255 (not annotated) in the label maps")


def other_weights(tune: Any, folder: Path) -> dict[str, Any]:
    weights = torch.load(folder / "run" / "models" / "model.pt", weights_only=True)
    torch.save({key: value + 1 for key, value in weights.items()}, folder / "run" / "models" / "model.pt")
    return {}


def corrected_label(tune: Any, folder: Path) -> dict[str, Any]:
    (entry, *_) = [
        entry for entry in json.loads((folder / "data" / "datalist.json").read_text())["training"] if "label" in entry
    ]
    label = nib.load(folder / "data" / entry["label"])
    array = np.asarray(label.dataobj).copy()
    array[array == 3] = 0
    nib.save(nib.Nifti1Image(array, label.affine, label.header), folder / "data" / entry["label"])
    return {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_weights, "this weights file has the SHA-256"),
        (corrected_label, "trained on was"),
        (lambda *_: {"finetune#learning_rate": 0.02}, "finetune#learning_rate was 0.01, is 0.02"),
        (lambda *_: {"batch_size_labeled": 1}, "batch_size_labeled was 2, is 1"),
    ],
)
def test_what_differs_begins_anew_and_says_so(
    change: Any, told: str, tune: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    data = {"datalist": str(tmp_path / "data" / "datalist.json"), "dataset_dir": str(tmp_path / "data")}
    tune("run", kill_at=5, **data)
    settings = change(tune, tmp_path)
    trainer = tune("run", **{**data, "max_epochs": 3, **settings})
    said = (tmp_path / "run" / "finetune" / "run.log").read_text()
    assert told in said and "this training begins anew" in said and "delete" not in said
    assert trainer.state.epoch == 3 and decision_of(tmp_path / "run")["score_fine_tuned"] is not None
    assert [line.split(",")[1] for line in log_of(tmp_path / "run") if ",decoded_val_dice," in line] == ["1", "2", "3"]


def test_weights_of_a_fine_tuning_that_has_ended_are_not_replaced_in_silence(
    tune: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "fine-tuned weights of before, which this training replaces"
    tune("run", max_epochs=1)
    assert said not in capsys.readouterr().out
    tune("run", max_epochs=1)
    assert f"{tmp_path / 'run' / 'models' / 'model_finetuned.pt'}: {said}" in capsys.readouterr().out
    tune("killed", kill_at=3)
    tune("killed")
    assert said not in capsys.readouterr().out, "it goes on"
