"""The shipped train.json on tiny volumes: both stages, resuming, overlays, tracking, other anatomies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_both_stages_leave_weights_numbers_and_the_merged_config(tiny_run: Path) -> None:
    assert (tiny_run / "stage1" / "prompted_vision.pt").is_file() and (tiny_run / "stage2" / "model.pt").is_file()
    assert "prompt_map_dice" in (tiny_run / "stage1" / "metrics.csv").read_text()
    assert "val_dice" in (tiny_run / "stage2" / "metrics.csv").read_text()
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["features"] == [4, 8] and config["output_dir"] == str(tiny_run)
    assert not any("text_encoder" in key for key in torch.load(tiny_run / "stage2" / "resume.pt")["states"])
    written = weights(tiny_run / "stage1" / "prompted_vision.pt")
    assert written["activation"] == "sigmoid" and written["arguments"]["projection"] == "linear"
    assert written["objective"] == {"name": "token and pixel loss on class prompts", "substitution": None}


def test_mlflow_follows_both_stages(tiny_run: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    from monai.utils import path_to_sqlite_uri

    client = mlflow.MlflowClient(path_to_sqlite_uri(str(tiny_run / "mlruns.db")))
    (experiment,) = [e for e in client.search_experiments() if e.name == "cps4"]
    runs = {run.info.run_name: run for run in client.search_runs(experiment.experiment_id)}
    assert set(runs) == {"stage1", "stage2"}
    assert {"train_loss", "prompt_map_dice", "loss"} <= set(runs["stage1"].data.metrics)
    assert {"train_loss", "val_dice"} <= set(runs["stage2"].data.metrics)
    assert len(client.get_metric_history(runs["stage1"].info.run_id, "train_loss")) == 2
    assert runs["stage2"].data.params["features"] == "[4, 8]"


@pytest.mark.parametrize(
    ("run_id", "trainer", "result"),
    [("training_stage1", "stage1#train#trainer", "stage1"), ("training_stage2", "train#trainer", "stage2")],
)
def test_a_killed_run_started_again_ends_with_the_same_weights(run_id, trainer, result, run_tiny, tiny_run, tmp_path):
    more = {"stage1#max_epochs": 3, "max_epochs": 3}
    if run_id == "training_stage2":
        more["stage1_checkpoint"] = str(tiny_run / "stage1" / "prompted_vision.pt")
    run_tiny(run_id, tmp_path / "straight", **more)
    workflow = run_tiny(run_id, tmp_path / "killed", run=False, **more)

    def kill(engine: object) -> None:
        raise Killed

    workflow.parser.get_parsed_content(trainer).add_event_handler(Events.ITERATION_COMPLETED(once=4), kill)
    with pytest.raises(Killed):
        workflow.run()
    run_tiny(run_id, tmp_path / "killed", **more)
    straight, resumed = (weights(tmp_path / name / result / "resume.pt") for name in ("straight", "killed"))
    assert resumed["trainer"]["iteration"] == 6 and str(straight["states"]) == str(resumed["states"])
    name = "prompted_vision.pt" if result == "stage1" else "model.pt"
    first, second = (weights(tmp_path / run / result / name) for run in ("straight", "killed"))
    assert same(first.get("weights", first), second.get("weights", second))
    name = "model" if result == "stage1" else "teacher"
    networks = [state["states"]["method"]["networks"][name] for state in (straight, resumed)]
    assert same(*networks)


def test_a_longer_run_goes_on_with_the_milestones_it_began_with(run_tiny, tmp_path):
    short = {"overlays": ("methods/supervised",), "max_epochs": 3}
    run_tiny("training_stage2", tmp_path, **short)
    run_tiny("training_stage2", tmp_path, **{**short, "max_epochs": 6})
    state = weights(tmp_path / "stage2" / "resume.pt")
    assert state["trainer"]["epoch"] == 6 and sorted(state["states"]["lr_scheduler"]["milestones"]) == [1, 2]


def test_a_run_with_other_settings_is_not_taken_for_the_same(run_tiny, tmp_path):
    run_tiny("training_stage2", tmp_path, ("supervised",))
    with pytest.raises(ValueError, match=r"learning_rate was 0\.0001, is 0\.5"):
        run_tiny("training_stage2", tmp_path, ("supervised",), learning_rate=0.5, max_epochs=2)
    with pytest.raises(ValueError, match=r"holds weights of other settings \(spacing_mm is 6\.0, of the weights 7\.5"):
        run_tiny("training_stage2", tmp_path, ("supervised",), spacing_mm=6.0, max_epochs=2)
    assert json.loads((tmp_path / "stage2" / "plan.json").read_text())["spacing_mm"] == 7.5


def test_a_refused_run_leaves_what_the_run_that_is_there_wrote(run_tiny, tmp_path):
    run_tiny("training_stage2", tmp_path, ("supervised",))
    files = [tmp_path / "config.json", tmp_path / "stage2" / "plan.json", tmp_path / "stage2" / "run.json"]
    before = [path.read_bytes() for path in files]
    with pytest.raises(ValueError, match="island_mm3"):
        run_tiny("training_stage2", tmp_path, ("supervised",), **{"level_thresholds#island_mm3": 20.0})
    with pytest.raises(ValueError, match=r"cps4_monai\.methods\.Supervised"):
        run_tiny("training_stage2", tmp_path, ("mean_teacher",))
    assert [path.read_bytes() for path in files] == before


def test_a_run_does_not_go_on_with_other_label_maps_or_other_codes_left_out(run_tiny, tiny_data_of, tmp_path):
    folder = tiny_data_of(tmp_path / "data", lambda codes: codes)
    data = {"datalist": str(folder / "datalist.json"), "dataset_dir": str(folder)}
    run_tiny("training_stage2", tmp_path / "run", ("supervised",), **data)
    content = json.loads((folder / "datalist.json").read_text())
    (folder / "datalist.json").write_text(json.dumps({**content, "unannotated": [1]}))
    with pytest.raises(ValueError, match=r"unannotated codes was \[\], is \[1\]"):
        run_tiny("training_stage2", tmp_path / "run", ("supervised",), **data, max_epochs=2)
    (folder / "datalist.json").write_text(json.dumps(content))
    checkpoint = weights(tmp_path / "run" / "stage2" / "resume.pt")
    told = {key: checkpoint["settings"].pop(key) for key in ("unannotated codes", "label maps")}
    torch.save(checkpoint, tmp_path / "run" / "stage2" / "resume.pt")  # as 0.4.0 wrote it
    run_tiny("training_stage2", tmp_path / "run", ("supervised",), **data, max_epochs=2)
    after = weights(tmp_path / "run" / "stage2" / "resume.pt")
    assert after["trainer"]["epoch"] == 2 and told.items() <= after["settings"].items()
    entry = next(entry for entry in content["training"] if entry["labeled"])
    label = nib.load(folder / entry["label"])
    corrected = np.where(np.asarray(label.dataobj) == 11, 0, np.asarray(label.dataobj)).astype(np.uint8)
    nib.save(nib.Nifti1Image(corrected, label.affine), folder / entry["label"])
    with pytest.raises(ValueError, match=f"label maps was .*{entry['subject']}.*another output folder"):
        run_tiny("training_stage2", tmp_path / "run", ("supervised",), **data, max_epochs=3)


def test_a_run_that_is_interrupted_before_it_trains_leaves_the_config_of_the_one_that_is_there(
    run_tiny, tmp_path, monkeypatch
):
    run_tiny("training_stage2", tmp_path, ("supervised",))
    before = (tmp_path / "config.json").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cps4_monai.assembly.slices.check_datalist", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tiny("training_stage2", tmp_path, ("supervised",), labeled_share="50")
    assert (tmp_path / "config.json").read_bytes() == before


def test_stage_1_is_set_aside_before_stage_2_begins(run_tiny, tmp_path):
    method = run_tiny("run", tmp_path).parser.get_parsed_content("stage1#method")
    (optimizer,) = method.optimizers.values()
    assert not optimizer.state and all(p.grad is None for net in method.networks.values() for p in net.parameters())


def test_stage_1_never_replaces_that_of_another_run(run_tiny, tiny_run, tmp_path):
    other = tiny_run / "stage1" / "prompted_vision.pt"
    before = other.read_bytes()
    with pytest.raises(ValueError, match="which this stage 1 would replace"):
        run_tiny("run", tmp_path, stage1_checkpoint=str(other))
    assert other.read_bytes() == before and not (tmp_path / "stage1" / "resume.pt").exists()


def test_early_stopping_counts_on_after_a_kill(run_tiny, tmp_path):
    patient = {"overlays": ("supervised",), "early_stopping_patience": 2, "learning_rate": 0.0}
    run_tiny("training_stage2", tmp_path, **patient, max_epochs=2)
    assert weights(tmp_path / "stage2" / "resume.pt")["states"]["early_stop"]["counter"] == 1
    run_tiny("training_stage2", tmp_path, **patient, max_epochs=9)
    assert weights(tmp_path / "stage2" / "resume.pt")["trainer"]["epoch"] == 3


@pytest.mark.parametrize("method", ["mean_teacher", "mt_ce", "supervised", "bcp"])
def test_every_method_overlay_trains(method, run_tiny, tiny_run, tmp_path):
    checkpoint = str(tiny_run / "stage1" / "prompted_vision.pt")
    run_tiny("training_stage2", tmp_path, (method,), stage1_checkpoint=checkpoint, iterations_per_epoch=1)
    assert (tmp_path / "stage2" / "model.pt").is_file()


@pytest.mark.parametrize("method", ["methods/cps4", "methods/cps4_paper"])
def test_the_rows_of_the_paper_page_train_both_stages(method, run_tiny, tmp_path):
    own = {"in_plane_mode": "central_half", "spacing_mm": None} if method.endswith("paper") else {}
    workflow = run_tiny("run", tmp_path, (method,), iterations_per_epoch=1, **own)
    parsed = workflow.parser.get_parsed_content
    paper = method.endswith("paper")
    assert workflow.parser["stage1#loss#negatives"] == ("present" if paper else "all")
    assert parsed("prompt_map").of == ("similarity" if paper else "sigmoid")
    assert parsed("prompt_map").presence_threshold == (None if paper else 0.5)
    assert (tmp_path / "stage2" / "model.pt").is_file()


def test_another_anatomy_is_a_config_file(run_tiny, tiny_data, tiny_data_of, tmp_path):
    import nibabel as nib
    import numpy as np

    table = {
        "prompt_template": "spine MRI, {name}",
        "structures": [
            {"code": 0, "name": "background", "long_name": "background", "kind": "background"},
            {"code": 1, "name": "bone", "long_name": "vertebral bone", "kind": "vertebra", "order": 0},
            {"code": 2, "name": "disc", "long_name": "intervertebral disc", "kind": "disc", "order": 1},
        ],
    }
    (tmp_path / "three.json").write_text(json.dumps(table))
    data = tiny_data_of(tmp_path / "data", lambda codes: np.where(codes > 10, 2, np.minimum(codes, 1)))
    three = {
        "anatomy_source": str(tmp_path / "three.json"),
        "datalist": str(data / "datalist.json"),
        "dataset_dir": str(data),
        "cache_dir": str(tmp_path / "cache"),
    }
    of_twenty = {**three, "datalist": str(tiny_data / "datalist.json"), "dataset_dir": str(tiny_data)}
    with pytest.raises((RuntimeError, ValueError)) as refused:
        run_tiny("training_stage1", tmp_path / "refused", **of_twenty)
    assert "code 1 'S', not 'bone'" in str(refused.getrepr(chain=True))
    run_tiny("run", tmp_path / "run", iterations_per_epoch=1, **{**three, "stage1#iterations_per_epoch": 1})
    assert weights(tmp_path / "run" / "stage1" / "prompted_vision.pt")["weights"]["embeddings"].shape[0] == 3
    workflow = run_tiny("predict", tmp_path / "run", ("evaluate",), **three)
    assert workflow.parser.get_parsed_content("anatomy").prompts[1] == "spine MRI, vertebral bone"
    assert workflow.parser.get_parsed_content("network_def").out_channels == 3
    assert workflow.parser.get_parsed_content("pictured_structures") == ["bone", "disc"]
    predictions = list((tmp_path / "run" / "evaluation" / "predictions").rglob("*.nii.gz"))
    assert len(predictions) == 2 and np.asarray(nib.load(predictions[0]).dataobj).max() <= 2
    (tmp_path / "three.json").rename(tmp_path / "moved.json")
    moved = {**three, "anatomy_source": str(tmp_path / "moved.json"), "iterations_per_epoch": 1}
    run_tiny("training_stage2", tmp_path / "run", max_epochs=2, **moved)
    starts = json.loads((tmp_path / "run" / "stage2" / "run.json").read_text())["starts"]
    assert [start["epochs"] for start in starts] == [1, 2], "the file was only renamed"
    (tmp_path / "moved.json").write_text(json.dumps({**table, "prompt_template": "an image of {name}"}))
    with pytest.raises((RuntimeError, ValueError)) as refused:
        run_tiny("training_stage2", tmp_path / "run", max_epochs=3, **moved)
    assert "an image of {name}" in str(refused.getrepr(chain=True))


def test_training_can_start_from_the_weights_of_a_bundle_folder(run_tiny, tiny_run, tmp_path):
    (tmp_path / "models").mkdir()
    model = weights(tiny_run / "stage2" / "model.pt")
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in model.items()},
        tmp_path / "models" / "model.pt",
    )
    shutil.copy(tiny_run / "stage2" / "plan.json", tmp_path / "models")
    workflow = run_tiny("training_stage2", tmp_path / "run", ("supervised",), run=False, finetune_from=str(tmp_path))
    network = workflow.parser.get_parsed_content("train#network")
    assert all(torch.allclose(value, model[key], atol=1e-3) for key, value in network.state_dict().items())


def test_cached_and_fresh_prompt_maps_agree_without_spatial_transforms(run_tiny, tiny_run, tmp_path):
    still = {
        "geometry": {"affine_prob": 0.0, "elastic_prob": 0.0},
        "prompt_map#presence_threshold": None,
        "stage1_checkpoint": str(tiny_run / "stage1" / "prompted_vision.pt"),
    }
    workflows = [
        run_tiny("training_stage2", tmp_path / str(cached), cache_prompt_logits=cached, **still)
        for cached in (False, True)
    ]
    fresh, cached = (w.parser.get_parsed_content("train#trainer").state.batch["unlabeled"] for w in workflows)
    assert torch.equal(fresh["image"], cached["image"]) and fresh["prompt_map"].unique().numel() > 1
    assert (fresh["prompt_map"] == cached["prompt_map"]).float().mean() > 0.999
    assert workflows[1].parser.get_parsed_content("train#provider").batch_keys == ("slice_id", "grid")
