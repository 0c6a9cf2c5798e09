"""Which iterations have a line of losses in metrics.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from ignite.engine import Engine

from cps4_monai.handlers.metrics_log import MetricsLog


def iterations_with_losses(path: Path) -> list[int]:
    with path.open(encoding="utf-8", newline="") as lines:
        return [int(row["iteration"]) for row in csv.DictReader(lines) if row["name"] == "train_loss"]


@pytest.mark.parametrize(
    ("length", "every", "expected"),
    [
        (3, 20, [3, 6, 9, 12]),  # epochs shorter than `every`: the last iteration of each
        (5, 8, [5, 8, 15, 16]),  # of the epoch 6 to 10 iteration 8, of 16 to 20 iteration 16
        (4, 2, [2, 4, 6, 8, 10, 12, 14, 16]),
    ],
)
def test_every_epoch_has_a_line_of_losses(length: int, every: int, expected: list[int], tmp_path: Path) -> None:
    trainer = Engine(lambda engine, batch: {"loss": 1.0})
    MetricsLog(tmp_path / "metrics.csv", "stage2", {}, every).attach(trainer)
    trainer.run(range(length), max_epochs=4)
    assert iterations_with_losses(tmp_path / "metrics.csv") == expected
