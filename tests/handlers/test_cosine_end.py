"""A cosine that ends before the run does is said, with the T_max that fits; the rates themselves show that it fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from cps4_monai.handlers import CosineEnd


def rates_of(t_max: int, epochs: int, interval: int, resumed_with: int | None = None) -> list[float]:
    """The rate that each epoch is trained with, stepped as validations step it: every so many epochs and at the end."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = CosineAnnealingLR(optimizer, t_max)
    trainer, rates = Engine(lambda engine, batch: optimizer.step()), []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: rates.append(schedule.get_last_lr()[0]))

    @trainer.on(Events.EPOCH_COMPLETED)
    def step(engine: Engine) -> None:
        if engine.state.epoch % interval == 0 or engine.state.epoch == epochs:
            schedule.step()

    if resumed_with is not None:  # what a checkpoint brings back
        trainer.add_event_handler(Events.STARTED, lambda: schedule.load_state_dict({"T_max": resumed_with}))
    CosineEnd(schedule, interval).attach(trainer)
    trainer.run([0], max_epochs=epochs)
    return rates


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the handler says; others log, too, where an earlier test has set the bundle's log up."""
    return [record.message for record in caplog.records if record.name == CosineEnd.__module__]


def test_an_interval_that_does_not_divide_the_epochs_is_said_with_the_length_that_fits(caplog) -> None:
    assert rates_of(2, 5, 2) == pytest.approx([1, 1, 0.5, 0.5, 0])  # T_max = 5 // 2: the last epoch learns nothing
    (told,) = said(caplog)
    assert "T_max of lr_scheduler is 2, and the schedule takes 3 steps in 5 epochs: after epoch 4 the rate is 0" in told
    assert "set lr_scheduler#T_max to 3, or a val_interval that divides max_epochs" in told
    caplog.clear()
    assert rates_of(3, 5, 2) == pytest.approx([1, 1, 0.75, 0.75, 0.25]) and not said(caplog)


def test_the_length_that_a_longer_run_brings_back_counts(caplog) -> None:
    assert rates_of(3, 3, 1)[-1] == pytest.approx(0.25) and not said(caplog)
    rates_of(6, 6, 1, resumed_with=3)
    assert (
        "T_max of lr_scheduler is 3, and the schedule takes 6 steps" in caplog.text and "start it anew" in caplog.text
    )


def test_other_schedules_are_passed_over(caplog) -> None:
    trainer = Engine(lambda engine, batch: None)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    CosineEnd(MultiStepLR(optimizer, [1])).attach(trainer)
    trainer.run([0], max_epochs=3)
    assert not said(caplog)


def test_stage_1_of_the_study_overlay_says_it(run_tiny: Callable[..., Any], tmp_path: Path) -> None:
    schedule = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "optimizer": "@stage1#optimizer"}
    schedule["T_max"] = "$max(1, @stage1#max_epochs // @stage1#val_interval)"  # as the overlays study and demo have it
    given = {"stage1#lr_scheduler": schedule, "stage1#val_interval": 2, "stage1#iterations_per_epoch": 1}
    run_tiny("training_stage1", tmp_path, **given, **{"stage1#max_epochs": 3})
    log = (tmp_path / "stage1" / "run.log").read_text("utf-8")
    assert "T_max of lr_scheduler is 1, and the schedule takes 2 steps in 3 epochs" in log
