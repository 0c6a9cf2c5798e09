"""Best weights: written when better, unwrapped, bad metrics named; early stopping."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import nn

from cps4_monai.handlers import BestWeights, EarlyStop, NoWeightsError


def validate(handler, scores, network=None):
    """Runs an evaluator that reports `scores`, one an epoch; yields after each."""
    network = network or nn.Linear(1, 1)
    evaluator = SupervisedEvaluator("cpu", [{"image": torch.ones(1, 1)}], network, val_handlers=[handler])
    score = {}
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(score))
    for epoch, value in enumerate(scores, start=1):
        score["dice"] = value
        evaluator.run(epoch)
        yield


@pytest.mark.parametrize(("mode", "best"), [("max", (0.9, 2)), ("min", (0.3, 3))])
def test_weights_of_the_best_epoch_stay(tmp_path, mode, best):
    network = nn.Linear(1, 1)
    handler = BestWeights(tmp_path / "models" / "model.pt", network, metric="dice", mode=mode)
    for number, _ in enumerate(validate(handler, [0.5, 0.9, 0.3, float("nan"), 0.6], network), start=1):
        nn.init.constant_(network.weight, number)  # what the next validation sees
    assert (handler.best_score, handler.best_epoch) == best
    saved = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert set(saved) == {"weight", "bias"} and saved["weight"].item() == best[1] - 1


@pytest.mark.parametrize("metric", ["loss", "val_missed", "decoded_false"])
def test_of_what_is_better_the_less_there_is_the_least_stays(tmp_path, metric):
    assert BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric=metric).mode == "min"
    assert BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric=metric, mode="max").mode == "max"
    assert BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="decoded_val_dice").mode == "max"


@pytest.mark.parametrize(("key", "best"), [("val_loss", (0.2, 2)), ("val_dice", (1.5, 3))])
def test_by_the_key_metric_less_is_better_where_its_name_says_so(tmp_path, key, best):
    handler, evaluator = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1)), Engine(lambda engine, batch: None)
    evaluator.state.key_metric_name, trainer = key, Engine(lambda engine, batch: None)
    EarlyStop(evaluator, patience=1).attach(trainer)
    handler.attach(evaluator)
    values = [0.9, 0.2, 1.5]
    evaluator.add_event_handler(Events.STARTED, lambda e: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def _(engine):
        evaluator.state.metrics = {key: values[engine.state.epoch - 1]}
        evaluator.state.epoch = engine.state.epoch
        handler(evaluator)

    trainer.run([0], max_epochs=3)
    assert (handler.best_score, handler.best_epoch) == best


def test_the_log_names_the_metric_since_monai_has_a_best_of_its_own(tmp_path, caplog):
    caplog.set_level("INFO", "cps4_monai")
    list(validate(BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="dice"), [0.5]))
    assert f"best so far: dice 0.5000 at epoch 1, weights in {tmp_path / 'm.pt'}" in caplog.text


@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_equal_epochs_the_later_one_stays(tmp_path, mode):
    network = nn.Linear(1, 1)
    handler = BestWeights(tmp_path / "m.pt", network, metric="dice", mode=mode)
    for number, _ in enumerate(validate(handler, [0.0, 0.0, 0.0], network), start=1):
        nn.init.constant_(network.weight, number)
    assert (handler.best_score, handler.best_epoch) == (0.0, 3)
    assert torch.load(tmp_path / "m.pt", weights_only=True)["weight"].item() == 2


def test_nan_is_never_the_best(tmp_path):
    handler = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="dice")
    list(validate(handler, [float("nan")]))
    assert handler.best_score is None and not (tmp_path / "m.pt").exists()


def test_weights_of_an_earlier_training_are_not_taken_for_those_of_one_without_a_score(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"earlier")
    handler = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="dice")
    with pytest.raises(NoWeightsError, match=r"m\.pt is of an earlier training; nothing was validated"):
        handler.require()
    list(validate(handler, [float("nan")]))
    started_again = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="dice")
    started_again.load_state_dict(handler.state_dict())  # its epochs are over: nothing is validated any more
    for training in (handler, started_again):
        with pytest.raises(NoWeightsError, match=r"m\.pt is of an earlier training; dice was no number"):
            training.require()


@pytest.mark.parametrize("metric", ["dice", "iou"])
def test_a_finished_training_that_is_started_again_has_its_weights_by_whatever_metric(tmp_path, metric):
    first = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="dice")
    list(validate(first, [0.5, float("nan")]))
    started_again = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric=metric)
    started_again.load_state_dict(first.state_dict())
    started_again.require()
    (tmp_path / "m.pt").unlink()
    with pytest.raises(NoWeightsError, match=r"m\.pt is not there; the file was removed"):
        started_again.require()


def test_save_function_writes_instead(tmp_path):
    handler = BestWeights(tmp_path / "m.pt", metric="dice", save=lambda path: path.write_text("prompted"))
    list(validate(handler, [0.1]))
    assert (tmp_path / "m.pt").read_text() == "prompted"


def test_a_metric_that_is_not_there_is_named(tmp_path):
    handler = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="iou")
    with pytest.raises(ValueError, match=r"'iou', the evaluator has \['dice'\]"):
        list(validate(handler, [0.1]))


def test_a_metric_that_is_no_scalar_is_named(tmp_path):
    handler = BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), metric="dice")
    with pytest.raises(ValueError, match="no scalar"):
        list(validate(handler, [torch.zeros(3)]))


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode is 'best'"):
        BestWeights(tmp_path / "m.pt", nn.Linear(1, 1), mode="best")
    with pytest.raises(ValueError, match="exactly one"):
        BestWeights(tmp_path / "m.pt")


def test_early_stop_ends_the_trainer_after_patience_validations():
    evaluator, trainer = Engine(lambda e, b: None), Engine(lambda e, b: None)
    scores = [0.5, 0.6, 0.6, 0.55, 0.9]

    @trainer.on(Events.EPOCH_COMPLETED(every=2))
    def validate_every_second_epoch(engine):
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"dice": scores[engine.state.epoch // 2 - 1]}

    EarlyStop(evaluator, patience=2, metric="dice").attach(trainer)
    trainer.run([0], max_epochs=10)
    assert trainer.state.epoch == 8
