"""The handlers of every trainer act in one order, at each event."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events

ORDER = [
    "RunRecord",
    "EpochSeed",
    "PromptMapHandler",
    "LrScheduleHandler",
    "StopOnNonFinite",
    "EpochValidation",
    "EarlyStop",
    "ProgressHandler",
    "MetricsLog",
    "TensorBoardStatsHandler",
    "PictureHandler",
    "CheckpointSaver",
    "ResumeHandler",
    "CosineEnd",
    "AtTheEnd",
]


def acting(trainer: Any, event: Events) -> list[str]:
    """Classes of the handlers at an event, in order."""
    called = [handler for handler, *_ in trainer._event_handlers[event]]
    owners = [getattr(handler, "__self__", handler) for handler in (getattr(h, "__wrapped__", h) for h in called)]
    return [type(owner).__name__ for owner in owners if type(owner).__name__ in ORDER]


@pytest.mark.parametrize("trainer", ["train#trainer", "stage1#train#trainer"])
@pytest.mark.parametrize("event", [Events.STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED])
def test_handlers_act_in_one_order(
    trainer: str, event: Events, run_tiny: Callable[..., Any], tiny_run: Path, tmp_path: Path
) -> None:
    saver = {"_target_": "CheckpointSaver", "save_dir": str(tmp_path), "save_dict": {"net": "@network"}}
    given: dict[str, Any] = {
        trainer.replace("trainer", "handlers"): [{**saver, "save_final": True, "save_interval": 1}]
    }
    if trainer == "train#trainer":
        given["stage1_checkpoint"] = str(tiny_run / "stage1" / "prompted_vision.pt")
    workflow = run_tiny("run", tmp_path, run=False, early_stopping_patience=3, **given)
    found = acting(workflow.parser.get_parsed_content(trainer), event)
    assert found == sorted(found, key=ORDER.index) and "ResumeHandler" in found
    if event is Events.EPOCH_COMPLETED:
        assert {"EpochValidation", "MetricsLog", "CheckpointSaver"} <= set(found)
    if event is Events.COMPLETED:
        assert found[-1] == "AtTheEnd"
