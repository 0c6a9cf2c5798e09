"""Losses that are not finite: training stops, the slices are named, the batch is saved."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from cps4_monai.handlers import NonFiniteLossError, StopOnNonFinite


def poison(run, iteration):
    @run.trainer.on("GET_BATCH_COMPLETED")
    def spoil(engine):
        if engine.state.iteration + 1 == iteration:
            engine.state.batch["labeled"]["image"][0, 0, 3, 3] = float("nan")


@pytest.mark.parametrize("every", [1, 2, 100])
def test_batch_is_named_and_saved_however_seldom_it_is_looked_at(tmp_path, make_run, every):
    run = make_run(tmp_path, handlers=[StopOnNonFinite(tmp_path, every)])
    poison(run, 5)
    with pytest.raises(NonFiniteLossError, match=r"at iteration 5 \(epoch 2\).*labeled: sub-1 slice 1.*non_finite"):
        run.run()
    saved = torch.load(tmp_path / "non_finite_batch.pt", weights_only=True)
    assert saved["iteration"] == 5 and "loss_supervised" in saved["losses"]
    assert saved["slices"] == ["labeled: sub-1 slice 1", "labeled: sub-x slice 9"]
    assert saved["batch"]["labeled"]["image"].isnan().sum() == 1


def test_weights_spoiled_by_it_reach_no_checkpoint(tmp_path, make_run):
    run = make_run(tmp_path, handlers=[StopOnNonFinite(tmp_path, 100)])
    poison(run, 6)
    with pytest.raises(NonFiniteLossError):
        run.run()
    checkpoint = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert checkpoint["trainer"]["epoch"] == 1
    student = checkpoint["states"]["method"]["networks"]["student"]
    assert all(value.isfinite().all() for value in student.values())


def test_the_first_bad_step_is_named_where_a_batch_makes_two_steps(tmp_path):
    handler = StopOnNonFinite(tmp_path, 4)
    for iteration in (1, 2, 3, 4):
        for _ in range(2):
            loss = torch.tensor(float("nan") if iteration == 1 else 1.0)
            state = SimpleNamespace(output={"loss": loss}, iteration=iteration, epoch=1, batch={"subject": ["sub-1"]})
            handler.note(SimpleNamespace(state=state))
    with pytest.raises(NonFiniteLossError, match="at iteration 1 "):
        handler.look(None)


def test_finite_runs_are_left_alone(tmp_path, make_run):
    run = make_run(tmp_path, handlers=[StopOnNonFinite(tmp_path, 2)]).run()
    assert run.trainer.state.epoch == 4 and not (tmp_path / "non_finite_batch.pt").exists()


def test_stage_one_is_watched_too(tmp_path):
    network = nn.Linear(1, 1)
    loader = [{"image": torch.full((2, 1), value), "label": torch.ones(2, 1)} for value in (1.0, float("inf"))]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = SupervisedTrainer(
        "cpu", 1, loader, network, optimizer, nn.functional.mse_loss, train_handlers=[StopOnNonFinite(tmp_path)]
    )
    with pytest.raises(NonFiniteLossError, match=r"loss not finite at iteration 2.*unnamed slices"):
        trainer.run()


def test_every_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="every is 0"):
        StopOnNonFinite(tmp_path, 0)


def test_each_process_keeps_its_batch_under_a_name_of_its_own(tmp_path, monkeypatch):
    names = []
    for rank in (0, 1):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        names.append(StopOnNonFinite(tmp_path).path.name)
    assert names == ["non_finite_batch.pt", "non_finite_batch_rank1.pt"]
