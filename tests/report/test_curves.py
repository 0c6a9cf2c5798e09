from __future__ import annotations

import pandas as pd
import pytest

from cps4_monai.metrics.run_log import RunLog
from cps4_monai.report.curves import by_chart, read_metrics


def test_what_is_written_is_read(tmp_path):
    log = RunLog(tmp_path / "run" / "metrics.csv")
    log.write("stage2", 0, 1, {"loss": 2.0, "dice_b": 0.1})
    RunLog(tmp_path / "run" / "metrics.csv").write("stage2", 1, 2, {"loss": 1.0})  # a resumed run goes on
    frame = read_metrics(log.path)
    loss = frame[frame["name"] == "loss"]
    assert loss["iteration"].tolist() == [1, 2] and loss["value"].tolist() == [2.0, 1.0]


def test_repeated_iterations_of_a_resumed_run_count_once(tmp_path):
    log = RunLog(tmp_path / "metrics.csv")
    for value in (2.0, 5.0):
        log.write("stage1", 0, 1, {"loss": value})
    assert read_metrics(log.path)["value"].tolist() == [5.0]


def test_half_written_last_line_is_no_harm(tmp_path):
    log = RunLog(tmp_path / "metrics.csv")
    log.write("stage1", 0, 1, {"loss": 2.0})
    with log.path.open("a") as file:
        file.write("stage1,0,2")
    assert read_metrics(log.path).dropna()["value"].tolist() == [2.0]


@pytest.mark.parametrize("half", ["s", "stage1", "stage1,", "stage1,1", "stage1,1,2,lo"])
def test_a_run_killed_while_it_wrote_a_line_goes_on(tmp_path, half):
    log = RunLog(tmp_path / "metrics.csv")
    log.write("stage1", 1, 1, {"loss": 2.0})
    with log.path.open("a") as file:
        file.write(half)
    again = RunLog(log.path)  # one that drops nothing, as a validation after the last epoch has it
    again.write("stage1", 2, 2, {"loss": 1.0})
    assert read_metrics(log.path)["value"].tolist() == [2.0, 1.0]
    again.drop_from("stage1", 2)
    assert read_metrics(log.path)["value"].tolist() == [2.0]


def test_tensorboard_events_are_read(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "stage2")) as writer:
        for step in range(3):
            writer.add_scalar("loss", 1.0 / (step + 1), step)
    frame = read_metrics(tmp_path)
    assert frame["stage"].unique().tolist() == ["stage2"] and frame["iteration"].tolist() == [0, 1, 2]
    assert frame["value"].iloc[1] == pytest.approx(0.5)


def test_missing_or_other_files_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="not found"):
        read_metrics(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="no TensorBoard scalars"):
        read_metrics(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="are missing"):
        read_metrics(tmp_path / "other.csv")


def test_charts_are_split_by_stage_and_kind_and_classes_left_out():
    rows = [
        ("s1", 0, 1, "token_loss", 1.0),
        ("s2", 0, 1, "dice_b", 0.5),
        ("s2", 0, 1, "dice_b_L4/L5", 0.5),
        ("s2", 0, 1, "lr", 1e-4),
    ]
    charts = by_chart(pd.DataFrame(rows, columns=["stage", "epoch", "iteration", "name", "value"]), ["L4/L5"])
    assert set(charts) == {("s1", "losses"), ("s2", "scores"), ("s2", "other")}
    assert charts[("s2", "scores")]["name"].tolist() == ["dice_b"]


def test_of_the_scores_each_line_is_shown_once():
    dice = {"dice_a": 0.6, "dice_b": 0.5, "dice_c": 0.4, "iou_b": 0.3, "val_dice": 0.5, "decoded_val_dice": 0.7}
    student = {f"student_{name}": value / 2 for name, value in dice.items()}
    given = {**dice, **student, "pointing_game": 0.9, "train_seconds_per_iteration": 0.1, "missed": 3.0}
    rows = [("s2", 0, step, name, value * step) for step in (1, 2) for name, value in given.items()]
    charts = by_chart(pd.DataFrame(rows, columns=["stage", "epoch", "iteration", "name", "value"]))
    shown = {kind: sorted(values["name"].unique()) for (_, kind), values in charts.items()}
    assert shown == {
        "scores": ["decoded_val_dice", "dice_b", "pointing_game", "student_decoded_val_dice", "student_dice_b"],
        "seconds": ["train_seconds_per_iteration"],
        "other": ["missed"],
    }
