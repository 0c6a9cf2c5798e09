"""The last epoch is validated, however training ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from cps4_monai.handlers import BestWeights, EpochValidation, NoWeightsError, ResumeHandler
from cps4_monai.handlers.metrics_log import MetricsLog

ITEMS = [{"image": torch.ones(1, 2), "label": torch.ones(1, 2)}] * 3


class Run:
    """A trainer of three iterations an epoch; ``epochs`` is where its validator ran."""

    def __init__(self, folder: Any, max_epochs: int, interval: int, score: float = 0.5) -> None:
        network, device = nn.Linear(2, 2), torch.device("cpu")
        self.epochs: list[int] = []
        self.evaluator = SupervisedEvaluator(device, ITEMS, network)

        @self.evaluator.on(Events.COMPLETED)
        def measure(engine: Any) -> None:
            engine.state.metrics["dice"] = score
            self.epochs.append(engine.state.epoch)

        self.best = BestWeights(folder / "model.pt", network, "dice")
        self.best.attach(self.evaluator)
        self.trainer = SupervisedTrainer(
            device,
            max_epochs,
            ITEMS,
            network,
            torch.optim.SGD(network.parameters(), 0.1),
            nn.MSELoss(),
            train_handlers=[
                EpochValidation(interval, self.evaluator),
                MetricsLog(folder / "metrics.csv", "stage", {"": self.evaluator}),
                ResumeHandler(folder / "resume.pt", {"network": network, "best": self.best}),
            ],
        )

    def run(self) -> list[int]:
        self.trainer.run()
        return self.epochs


@pytest.mark.parametrize(
    ("max_epochs", "interval", "expected"),
    [
        (4, 5, [4]),
        (7, 5, [5, 7]),
        (10, 5, [5, 10]),
        (1, 1, [1]),
    ],
)
def test_every_interval_and_the_last_epoch(max_epochs, interval, expected, tmp_path) -> None:
    run = Run(tmp_path, max_epochs, interval)
    assert run.run() == expected
    run.best.require()


def test_a_run_stopped_at_the_end_or_within_an_epoch_is_validated(tmp_path) -> None:
    for iteration, epoch in ((6, 2), (5, 2)):
        run = Run(tmp_path / str(iteration), 9, 5)
        run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), lambda engine: engine.terminate())
        assert run.run() == [epoch] and (tmp_path / str(iteration) / "model.pt").is_file()


def test_a_run_that_ended_without_validation_gets_it_when_started_again_and_once_only(tmp_path) -> None:
    first = Run(tmp_path, 2, 1)
    handler = first.trainer._event_handlers[Events.EPOCH_COMPLETED]
    handler[:] = [entry for entry in handler if "of_epoch" not in str(entry[0])]
    ended = first.trainer._event_handlers[Events.COMPLETED]
    ended[:] = [entry for entry in ended if "of_end" not in str(entry[0])]
    assert first.run() == [] and not (tmp_path / "model.pt").exists()
    assert Run(tmp_path, 2, 1).run() == [2]
    assert (tmp_path / "model.pt").is_file() and ",dice," in (tmp_path / "metrics.csv").read_text()
    assert Run(tmp_path, 2, 1).run() == []


def test_an_interval_below_one_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected 1 or more epochs"):
        Run(tmp_path, 2, 0)


def test_a_training_without_weights_says_why(tmp_path) -> None:
    run = Run(tmp_path, 2, 1, score=float("nan"))
    with pytest.raises(NoWeightsError, match="nothing was validated"):
        run.best.require()
    run.run()
    with pytest.raises(NoWeightsError, match="dice was no number in any validation"):
        run.best.require()


def test_a_score_by_another_metric_is_not_compared_with(tmp_path) -> None:
    run = Run(tmp_path, 1, 1)
    run.run()
    other = BestWeights(tmp_path / "other.pt", nn.Linear(2, 2), "decoded_dice")
    other.load_state_dict(run.best.state_dict())
    assert other.best_score is None and other.last_epoch == 1
