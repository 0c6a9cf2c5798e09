"""Checkpoints: a resumed run is the uninterrupted one, bit for bit; damaged and foreign files are refused."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import numpy as np
import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from cps4_monai.engines import PrecisionTrainer
from cps4_monai.handlers import CheckpointError, EpochSeed, ResumeHandler
from cps4_monai.handlers.resume import random_state, set_random_state
from cps4_monai.inference.precision_inferer import PrecisionInferer
from cps4_monai.precision import Precision


class KilledError(Exception):
    """Stands for SIGKILL: no handler of ours may tidy up after it."""


def kill_at(run, iteration):
    @run.trainer.on("ITERATION_COMPLETED")
    def kill(engine):
        if engine.state.iteration == iteration:
            raise KilledError

    with pytest.raises(KilledError):
        run.run()


def assert_same(run, other):
    (tensors, plain), (other_tensors, other_plain) = run.bits(), other.bits()
    assert plain == other_plain
    assert tensors.keys() == other_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])] == []


@pytest.mark.parametrize("iteration", [1, 4, 6, 8, 11])
def test_killed_in_any_epoch_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, make_run, iteration):
    whole = make_run(tmp_path / "whole").run()
    kill_at(make_run(tmp_path / "killed"), iteration)
    resumed = make_run(tmp_path / "killed").run()
    assert_same(resumed, whole)
    best = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "killed")]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])


def test_killed_twice(tmp_path, make_run):
    whole = make_run(tmp_path / "whole").run()
    kill_at(make_run(tmp_path / "killed"), 4)
    kill_at(make_run(tmp_path / "killed"), 8)
    assert_same(make_run(tmp_path / "killed").run(), whole)


def test_only_the_epochs_that_are_left_are_run(tmp_path, make_run):
    kill_at(make_run(tmp_path), 8)
    resumed = make_run(tmp_path).run()
    assert resumed.trainer.data_loader.epochs == [3, 4]


def test_a_finished_run_trains_nothing_when_started_again(tmp_path, make_run):
    done = make_run(tmp_path).run()
    again = make_run(tmp_path).run()
    assert again.trainer.data_loader.epochs == []
    assert_same(again, done)


def test_more_epochs_may_be_asked_for_later(tmp_path, make_run):
    make_run(tmp_path, epochs=2, scores=[0.1, 0.2]).run()
    longer = make_run(tmp_path, epochs=4).run()
    assert longer.trainer.data_loader.epochs == [3, 4]
    assert_same(longer, make_run(tmp_path / "whole", epochs=4).run())


def test_kill_while_writing_leaves_the_last_good_checkpoint(tmp_path, make_run, monkeypatch):
    whole = make_run(tmp_path / "whole").run()
    run, save, written = make_run(tmp_path / "killed"), torch.save, []

    def half(state, path):
        written.append(path)
        if len(written) == 6:  # weights and checkpoint alternate: the checkpoint of the third epoch
            path.write_bytes(b"half a checkpoint")
            raise KilledError
        save(state, path)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KilledError):
        run.run()
    monkeypatch.undo()
    assert torch.load(tmp_path / "killed" / "resume.pt", weights_only=True)["trainer"]["epoch"] == 2
    assert_same(make_run(tmp_path / "killed").run(), whole)


def test_what_a_kill_left_beside_the_checkpoint_is_no_hindrance(tmp_path, make_run):
    (tmp_path / ".partial-resume.pt").write_bytes(b"half")
    make_run(tmp_path).run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "resume.pt"]


def test_best_score_survives_so_worse_epochs_do_not_overwrite_better_weights(tmp_path, make_run):
    scores = [0.5, 0.9, 0.3, 0.4]
    kill_at(make_run(tmp_path, scores=scores), 8)
    best = (tmp_path / "model.pt").read_bytes()
    resumed = make_run(tmp_path, scores=scores).run()
    assert (resumed.best.best_score, resumed.best.best_epoch) == (0.9, 2)
    assert (tmp_path / "model.pt").read_bytes() == best


def test_early_stop_is_counted_across_a_resume_and_stays_stopped(tmp_path, make_run, caplog):
    settings = {"epochs": 6, "scores": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], "patience": 3}
    kill_at(make_run(tmp_path, **settings), 8)
    resumed = make_run(tmp_path, **settings).run()
    assert resumed.trainer.data_loader.epochs == [3, 4]
    assert "nothing is left to train" not in caplog.text
    again = make_run(tmp_path, **{**settings, "epochs": 9}).run()
    assert again.trainer.data_loader.epochs == [] and again.trainer.state.epoch == 4
    assert "stopped early, and nothing is left to train, whatever max_epochs is" in caplog.text


def test_files_are_hashed_as_they_are_when_training_starts(tmp_path, make_run):
    """A stage 1 that still trains may have written a better epoch by the end of the first one here."""
    file = tmp_path / "prompted_vision.pt"
    file.write_bytes(b"read by this run")
    network = torch.nn.Linear(1, 1)
    handler = ResumeHandler(tmp_path / "resume.pt", {"network": network}, files={"stage1": file})
    trainer = make_run(tmp_path / "run").trainer
    handler.restore(trainer)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"written meanwhile")
    handler.save(trainer)
    assert torch.load(tmp_path / "resume.pt", weights_only=True)["files"] == {"stage1": expected}


def test_checkpoint_loads_with_weights_only_and_holds_everything(tmp_path, make_run):
    make_run(tmp_path).run()
    checkpoint = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert set(checkpoint["states"]) == {"method", "scheduler", "best"}
    assert set(checkpoint["states"]["method"]["networks"]) == {"student", "teacher"}
    assert checkpoint["trainer"] == {"epoch": 4, "iteration": 12, "epoch_length": 3, "stopped": False}


def test_other_settings_are_named(tmp_path, make_run):
    make_run(tmp_path, epochs=1, settings={"seed": 7, "classes": 3}).run()
    with pytest.raises(CheckpointError, match=r"classes was 3, is 4; seed was 7, is None.*another output folder"):
        make_run(tmp_path, epochs=2, settings={"classes": 4}).run()


def test_a_setting_that_an_earlier_version_did_not_keep_is_compared_from_then_on(tmp_path, make_run):
    make_run(tmp_path, epochs=1, settings={"seed": 7}).run()
    make_run(tmp_path, epochs=2, settings={"seed": 7, "left out": [1]}, since=("left out",)).run()
    with pytest.raises(CheckpointError, match=r"left out was \[1\], is \[\]"):
        make_run(tmp_path, epochs=3, settings={"seed": 7, "left out": []}, since=("left out",)).run()
    with pytest.raises(CheckpointError, match=r"left out was \[1\], is None"):
        make_run(tmp_path, epochs=3, settings={"seed": 7}, since=("left out",)).run()


def scans_of(count, digest="0"):
    return [[f"sub-{k:03d}", digest * 64] for k in range(count)]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            {"trained on": scans_of(205)},
            r"0 of 200 entries of trained on are gone, 5 of 205 are new \(\['sub-200', .*\['sub-202', .*, \.\.\.\)\);",
        ),
        (
            {"trained on": [["sub-000", "f" * 64], *scans_of(200)[1:]]},
            r"1 of 200 .* gone \(.*1 of 200 are new \(\['sub-0",
        ),
        ({"trained on": scans_of(200)[::-1]}, "the 200 entries of trained on, now 200, are in another order"),
        ({"trained on": {"no": "list"}}, r"trained on was \[\['sub-000'.*\.\.\., is {'no': 'list'}"),
        (
            {"classes": {"structures": [{"code": k} for k in range(60)], "template": "b"}},
            "2 entries of classes differ: 50 of 50 entries of classes.structures .*; classes.template was 'a', is 'b'",
        ),
    ],
)
def test_long_settings_are_told_by_how_many_entries_differ_and_the_first_few(tmp_path, make_run, now, said):
    before = {
        "trained on": scans_of(200),
        "classes": {"structures": [{"code": k, "order": None} for k in range(50)], "template": "a"},
    }
    make_run(tmp_path, epochs=1, settings=before).run()
    with pytest.raises(CheckpointError, match=said) as caught:
        make_run(tmp_path, epochs=2, settings={**before, **now}).run()
    assert len(str(caught.value)) < 1200


def test_a_file_with_another_content_is_named_and_the_same_one_elsewhere_is_not(tmp_path, make_run):
    stage1 = tmp_path / "prompted_vision.pt"
    stage1.write_bytes(b"first")
    run = {"settings": {"seed": 7}, "files": {"stage-1 file": stage1}}
    make_run(tmp_path, epochs=1, **run).run()
    stage1.write_bytes(b"second")
    first, second = (hashlib.sha256(content).hexdigest() for content in (b"first", b"second"))
    told = rf"{stage1}: this stage-1 file has the SHA-256 {second}, and .* one of {first}; .*Fix: put that .* back"
    with pytest.raises(CheckpointError, match=told):
        make_run(tmp_path, epochs=2, **run).run()
    (tmp_path / "moved.pt").write_bytes(b"first")
    resumed = make_run(tmp_path, epochs=2, settings={"seed": 7}, files={"stage-1 file": tmp_path / "moved.pt"}).run()
    assert resumed.trainer.data_loader.epochs == [2]


def test_a_file_among_the_settings_counts_by_its_content_and_so_does_the_place_in_an_older_checkpoint(
    tmp_path, make_run
):
    weights = tmp_path / "start.pt"
    weights.write_bytes(b"first")
    settings = {"finetune_from": str(weights)}
    make_run(tmp_path, epochs=1, settings=settings).run()
    checkpoint = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert checkpoint["settings"] == {"finetune_from": f"start.pt, SHA-256 {hashlib.sha256(b'first').hexdigest()}"}
    torch.save({**checkpoint, "settings": settings}, tmp_path / "resume.pt")  # as versions before wrote it
    assert make_run(tmp_path, epochs=2, settings=settings).run().trainer.data_loader.epochs == [2]
    weights.write_bytes(b"second")
    with pytest.raises(CheckpointError, match=r"finetune_from was 'start\.pt, SHA-256 .*', is 'start\.pt, SHA-256"):
        make_run(tmp_path, epochs=3, settings=settings).run()


def test_a_checkpoint_that_names_no_files_yet_goes_on_and_names_them_from_then_on(tmp_path, make_run, caplog):
    make_run(tmp_path, epochs=1).run()
    checkpoint = torch.load(tmp_path / "resume.pt", weights_only=True)
    del checkpoint["files"]  # as versions before wrote it
    torch.save(checkpoint, tmp_path / "resume.pt")
    (tmp_path / "stage1.pt").write_bytes(b"first")
    with caplog.at_level("INFO"):
        make_run(tmp_path, epochs=2, files={"stage-1 file": tmp_path / "stage1.pt"}).run()
    lines = [record.message for record in caplog.records if "stage-1 file" in record.message]
    assert len(lines) == 1 and "does not say yet" in lines[0] and hashlib.sha256(b"first").hexdigest() in lines[0]
    (tmp_path / "stage1.pt").write_bytes(b"second")
    with pytest.raises(CheckpointError, match="put that stage-1 file back"):
        make_run(tmp_path, epochs=3, files={"stage-1 file": tmp_path / "stage1.pt"}).run()


def test_another_epoch_length_is_named(tmp_path, make_run):
    run = make_run(tmp_path, epochs=1)
    run.run()
    other = make_run(tmp_path, epochs=2)
    other.trainer.state.epoch_length = 2
    with pytest.raises(CheckpointError, match="had 3 iterations, now it has 2"):
        other.run()


@pytest.mark.parametrize("content", [b"", b"half a checkpoint", None])
def test_damaged_checkpoint_is_named_and_not_trained_over(tmp_path, make_run, content):
    make_run(tmp_path, epochs=1).run()
    path = tmp_path / "resume.pt"
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    with pytest.raises(CheckpointError, match=r"resume\.pt: not a readable checkpoint.*delete this file"):
        make_run(tmp_path, epochs=2).run()


@pytest.mark.parametrize("part", ["settings", "trainer", "scaler", "random", "states"])
def test_a_checkpoint_without_a_part_says_which(tmp_path, make_run, part):
    make_run(tmp_path, epochs=1).run()
    path = tmp_path / "resume.pt"
    whole = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in whole.items() if name != part}, path)
    with pytest.raises(CheckpointError, match=rf"resume\.pt: not a readable checkpoint.*no \['{part}'\].*delete this"):
        make_run(tmp_path, epochs=2).run()


def stage_one(network, epochs, *handlers):
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    loader = [{"image": torch.ones(2, 1) * i, "label": torch.ones(2, 1)} for i in range(3)]
    trainer = SupervisedTrainer(
        "cpu",
        epochs,
        loader,
        network,
        optimizer,
        nn.functional.mse_loss,
        train_handlers=list(handlers),
        decollate=False,
    )
    return trainer


def test_stage_one_with_plateau_scheduler_resumes_bit_for_bit(tmp_path):
    def start(epochs, folder):
        torch.manual_seed(0)
        network = nn.Linear(1, 1)
        trainer = stage_one(network, epochs, EpochSeed(3))
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer, patience=0)
        # A NumPy score, which metrics like to be and which weights_only would not load.
        trainer.add_event_handler("EPOCH_COMPLETED", lambda e: scheduler.step(np.float64(1.0)))
        states = {"network": network, "optimizer": trainer.optimizer, "scheduler": scheduler}
        ResumeHandler(tmp_path / folder / "resume.pt", states).attach(trainer)
        trainer.run()
        return network.weight, scheduler.state_dict()

    start(2, "halves")
    (weight, state), (whole_weight, whole_state) = start(5, "halves"), start(5, "whole")
    assert torch.equal(weight, whole_weight) and state == whole_state


def test_random_state_of_all_three_generators_comes_back():
    state = random_state()
    first = (random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item())
    set_random_state(state)
    assert (random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()) == first


def test_scheduler_state_keeps_its_counter_type():
    from cps4_monai.handlers.files import plain

    assert type(plain({"milestones": Counter([2, 2])})["milestones"]) is Counter


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="states is empty"):
        ResumeHandler(tmp_path / "r.pt", {})
    with pytest.raises(TypeError, match=r"settings\.path is a PosixPath"):
        ResumeHandler(tmp_path / "r.pt", {"n": nn.Linear(1, 1)}, settings={"path": tmp_path})


class Stepper(nn.Module):
    """One weight whose gradient is 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return image * self.weight


def trained_in(precision, folder, epochs):
    network = Stepper()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    trainer = PrecisionTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}],
        network=network,
        optimizer=optimizer,
        loss_function=lambda pred, label: pred.mean(),
        inferer=PrecisionInferer(precision),
        precision=precision,
        decollate=False,
    )
    settings = {"amp": True, "amp_dtype": None}  # as asked for, the same on both machines
    ResumeHandler(folder / "resume.pt", {"network": network, "optimizer": optimizer}, settings).attach(trainer)
    trainer.run()
    return trainer


@pytest.mark.parametrize(("first", "second"), [("bfloat16", None), ("float16", None), (None, "float16")])
def test_a_run_goes_on_on_a_machine_of_another_precision_and_says_so(tmp_path, caplog, first, second):
    before, after = (Precision("cpu", name is not None, name) for name in (first, second))
    trained_in(before, tmp_path, 2)
    resumed = trained_in(after, tmp_path, 3)
    assert resumed.network.weight.item() == pytest.approx(-3.0, rel=1e-2)
    assert (resumed.scaler is not None) == after.scaled
    assert f"was computed in {before.name}; this machine goes on in {after.name}" in caplog.text


def test_a_resumed_run_keeps_the_scale_of_its_gradients_and_is_silent(tmp_path, caplog):
    first = trained_in(Precision("cpu", True, "float16"), tmp_path, 2)
    first.scaler.update(8.0)
    ResumeHandler(tmp_path / "resume.pt", {"network": first.network}, {"amp": True, "amp_dtype": None}).save(first)
    states = {"network": first.network}
    first.scaler = first.precision.new_scaler()
    assert first.scaler.get_scale() != 8.0
    ResumeHandler(tmp_path / "resume.pt", states, {"amp": True, "amp_dtype": None}).restore(first)
    assert first.scaler.get_scale() == 8.0 and "was computed in" not in caplog.text
