"""The overlay vessa on the shipped config: both stages, the file between them, evaluation, export, segmentation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from cps4_monai.bench.task import run_task
from cps4_monai.networks import ResUNet
from cps4_monai.vessa import assistant as of_assistant
from cps4_monai.vessa.feedback import feedback_prompts

SMALL = {"vessa_width": 16, "vessa_heads": 2, "vessa_reference_depth": 1, "vessa_decoder_depth": 1}


@pytest.fixture(scope="module")
def vessa(run_tiny, tmp_path_factory):
    """Folder and workflow of a tiny run of both stages."""
    folder = tmp_path_factory.mktemp("vessa")
    return folder, run_tiny("run", folder, ("vessa",), **SMALL)


def test_both_stages_train_and_leave_an_assistant_and_a_plain_network(vessa):
    folder, workflow = vessa
    file = torch.load(folder / "stage1" / "prompted_vision.pt", weights_only=True)
    assert file["format"] == "cps4_monai.assistant"
    assert file["objective"]["name"].startswith("VESSA-style assistant, trained from scratch")
    assert len(file["bank"]["slice_ids"]) == 4 and not any(key.startswith("bank") for key in file["weights"])
    ResUNet(1, 20, features=(4, 8)).load_state_dict(torch.load(folder / "stage2" / "model.pt", weights_only=True))
    method = workflow.parser.get_parsed_content("train#method")
    record = json.loads((folder / "stage2" / "run.json").read_text())["starts"][-1]
    assert record["budget_notes"] == list(method.budget_notes) and method.updates == 2


def test_its_metrics_are_logged(vessa):
    folder, _ = vessa
    stage1, stage2 = ((folder / stage / "metrics.csv").read_text() for stage in ("stage1", "stage2"))
    assert "prompt_map_dice" in stage1 and "loss_segmentation" in stage1
    for name in ("agreement", "structure_agreement", "confident_fraction", "loss_strong"):
        assert name in stage2


def test_no_parameter_of_the_assistant_has_a_gradient_or_is_in_the_checkpoint_of_stage_2(vessa):
    folder, workflow = vessa
    assistant = workflow.parser.get_parsed_content("train#provider").assistant
    assert all(p.grad is None and not p.requires_grad for p in assistant.parameters())
    sizes = {tuple(value.shape) for value in assistant.state_dict().values() if value.ndim > 1}
    states = torch.load(folder / "stage2" / "resume.pt", weights_only=True)["states"]
    assert set(states["method"]["networks"]) == {"student", "teacher"}
    kept = [v for network in states["method"]["networks"].values() for v in network.values()]
    assert len(sizes) > 5 and not any(tuple(value.shape) in sizes for value in kept)


@pytest.mark.parametrize(
    ("ablation", "attribute", "value"),
    [("vessa_no_feedback", "feedback_from", None), ("vessa_assistant_only", "teacher_share", 0.0)],
)
def test_an_ablation_shares_stage_1_and_trains(ablation, attribute, value, vessa, run_tiny, tmp_path):
    settings = {"stage1_checkpoint": str(vessa[0] / "stage1" / "prompted_vision.pt"), **SMALL}
    workflow = run_tiny("training_stage2", tmp_path, ("vessa", ablation), **settings)
    assert getattr(workflow.parser.get_parsed_content("train#method"), attribute) == value
    assert (tmp_path / "stage2" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vessa_max_templates": 3}, "4 templates of digest"),
        ({"prompt_template": "CT of {name}"}, "was trained with the prompt"),
        ({"slice_size": [32, 32]}, "takes slices of"),
    ],
)
def test_an_assistant_of_other_labels_prompts_or_sizes_is_refused(changed, message, vessa, run_tiny, tmp_path):
    settings = {"stage1_checkpoint": str(vessa[0] / "stage1" / "prompted_vision.pt"), **SMALL, **changed}
    workflow = run_tiny("training_stage2", tmp_path, ("vessa",), run=False, **settings)
    with pytest.raises(RuntimeError) as raised:
        workflow.parser.get_parsed_content("train#provider")
    causes, error = [], raised.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert message in "\n".join(causes)


def test_cps4_and_vessa_refuse_each_others_files(vessa, tiny_run, run_tiny, tmp_path):
    from cps4_monai.vision import holds_prompted_vision

    files: list[Path] = [run / "stage1" / "prompted_vision.pt" for run in (vessa[0], tiny_run)]
    assert [holds_prompted_vision(file) for file in files] == [False, True]
    for overlay, file in (("cps4", files[0]), ("vessa", files[1])):
        settings = {"stage1_checkpoint": str(file), **(SMALL if overlay == "vessa" else {})}
        workflow = run_tiny("training_stage2", tmp_path / overlay, (overlay,), run=False, **settings)
        with pytest.raises(RuntimeError):
            workflow.parser.get_parsed_content("train#provider")


def test_a_resumed_stage_1_equals_one_that_was_not_stopped_bit_by_bit_and_refuses_another_width(run_tiny, tmp_path):
    longer = {**SMALL, "stage1#max_epochs": 2}
    straight = run_tiny("training_stage1", tmp_path / "straight", ("vessa",), **longer)
    run_tiny("training_stage1", tmp_path, ("vessa",), **SMALL)
    resumed = run_tiny("training_stage1", tmp_path, ("vessa",), **longer)
    methods = [workflow.parser.get_parsed_content("stage1#method") for workflow in (straight, resumed)]
    assert [method.updates for method in methods] == [4, 4]
    one, other = (method.deployed.state_dict() for method in methods)
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
    with pytest.raises(ValueError, match="vessa_width was"):
        run_tiny("training_stage1", tmp_path, ("vessa",), **{**SMALL, "vessa_width": 32, "stage1#max_epochs": 3})


def test_a_stage_2_killed_while_the_assistant_listens_ends_as_one_that_was_not_stopped_bit_by_bit(
    vessa, run_tiny, tmp_path, monkeypatch
):
    """Of six steps the last four are heard, by a kind of prompt that is drawn; the fourth one is the last before."""
    turns = []

    def noted(probabilities, kinds):
        said = feedback_prompts(probabilities, kinds, least=0.05)  # an untrained student is sure of nothing
        turns.append([given.any().item() for given in (said.mask_given, said.box_given, said.point_given)])
        return said

    monkeypatch.setattr(of_assistant, "feedback_prompts", noted)
    more = {"stage1_checkpoint": str(vessa[0] / "stage1" / "prompted_vision.pt"), "max_epochs": 3, **SMALL}
    more["confidence_threshold"] = 0.0  # every pixel learns from the answer

    def trained(name, **other):
        run_tiny("training_stage2", tmp_path / name, ("vessa",), **{**more, **other})
        state = torch.load(tmp_path / name / "stage2" / "resume.pt", weights_only=True)
        return state["states"]["method"]["networks"], [turns.pop(0) for _ in range(len(turns))]

    class Killed(BaseException):
        pass

    def kill(engine):
        raise Killed

    straight, told = trained("straight")
    workflow = run_tiny("training_stage2", tmp_path / "killed", ("vessa",), run=False, **more)
    parsed = workflow.parser.get_parsed_content("train#trainer")
    parsed.add_event_handler(Events.ITERATION_COMPLETED(once=4), kill)
    with pytest.raises(Killed):
        workflow.run()
    assert turns == told[:2]
    turns.clear()
    resumed, told_again = trained("killed")
    assert told == told_again and len(told) == 4 and all(map(any, told)) and len(set(map(tuple, told))) > 1
    deaf, _ = trained("deaf", vessa_feedback_from=None)

    def same(one, other):
        return all(torch.equal(v, other[n][k]) for n, state in one.items() for k, v in state.items())

    assert same(straight, resumed) and not same(straight, deaf)


def test_the_small_overlay_and_that_of_studies_may_follow(run_tiny, tmp_path):
    for name in ("small", "study"):
        workflow = run_tiny("training_stage1", tmp_path / name, ("vessa", name), run=False, **SMALL)
        assert workflow.parser.get_parsed_content("stage1#network_def").prompts.centred


def test_its_stage_1_has_no_prompt_map_for_a_study_to_score(vessa, tmp_path):
    (tmp_path / "stage1").mkdir()
    shutil.copy(vessa[0] / "stage1" / "prompted_vision.pt", tmp_path / "stage1")
    (tmp_path / "task.json").write_text(json.dumps({"kind": "stage1"}))
    (tmp_path / "done.json").write_text(json.dumps({"seconds": {"training": 1.0}}))
    run_task(tmp_path, ["validation"])
    assert set(json.loads((tmp_path / "done.json").read_text())["seconds"]) == {"training", "validation"}
    assert not (tmp_path / "validation").exists()
