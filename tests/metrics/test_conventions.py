from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import DiceMetric, MeanIoU
from monai.networks import one_hot

from cps4_monai.metrics.conventions import subject_scores


def _maps():
    """Two slices of four pixels; class 1 in both, class 2 missed, class 3 false."""
    label = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 1, 2]]])
    pred = torch.tensor([[[0, 1, 1, 1]], [[0, 3, 1, 0]]])
    return pred, label


def test_three_conventions_worked_out_by_hand():
    scores = subject_scores(*_maps(), num_classes=4)
    # slice 1: background 2*1/(1+2), class 1 2*2/(3+2); slice 2: background 2*1/(2+2), class 1 1, classes 2 and 3 0
    first, second = (2 / 3 + 4 / 5) / 2, (1 / 2 + 1 + 0 + 0) / 4
    assert scores.dice_by["a"] == pytest.approx((first + second) / 2)
    class_1 = 2 * 3 / (4 + 3)
    assert scores.dice_by["b"] == pytest.approx((class_1 + 0) / 2)
    assert scores.dice_by["c"] == pytest.approx((class_1 + 0 + 0) / 3)
    assert scores.iou_by["b"] == pytest.approx((3 / 4 + 0) / 2)
    assert scores.iou_by["c"] == pytest.approx(3 / 4 / 3)
    assert scores.iou_by["a"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + (1 / 3 + 1) / 4) / 2)
    assert scores.num_slices == 2


def test_unannotated_classes_enter_no_convention():
    pred, label = _maps()
    scores = subject_scores(pred, label, 4, unannotated=[3])
    assert scores.dice_by["b"] == pytest.approx(scores.dice_by["c"])
    assert math.isnan(scores.dice[3]) and math.isnan(scores.iou[3])
    without = subject_scores(torch.where(pred == 3, 0, pred), label, 4)
    assert scores.dice_by == pytest.approx(without.dice_by)


def test_same_maps_score_one_by_each_convention():
    label = torch.randint(0, 6, (3, 8, 8))
    scores = subject_scores(label, label, 6)
    assert scores.dice_by == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})


def test_only_background_has_no_foreground_score():
    empty = torch.zeros(2, 4, 4, dtype=torch.long)
    scores = subject_scores(empty, empty, 3)
    assert scores.dice_by["a"] == 1.0
    assert math.isnan(scores.dice_by["b"]) and math.isnan(scores.dice_by["c"])


def test_false_class_lowers_c_but_not_b():
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[0, :2] = 1
    pred = label.clone()
    pred[0, 3, 3] = 2
    scores = subject_scores(pred, label, 3)
    assert scores.dice_by["b"] == 1.0 and scores.dice_by["c"] == pytest.approx(0.5)


def test_b_equals_monai_on_whole_volumes():
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(0, 7, (5, 10, 9), generator=generator)
    label[label == 4] = 0  # a class that only the prediction has
    pred = torch.where(torch.rand(label.shape, generator=generator) < 0.6, label, label.roll(1, 1))
    pred[0, 0, 0] = 4
    scores = subject_scores(pred, label, 7)
    one_hots = [one_hot(volume[None, None], 7) for volume in (pred, label)]
    for metric, ours in ((DiceMetric(reduction="none"), scores.dice), (MeanIoU(reduction="none"), scores.iou)):
        monai = metric(*one_hots)[0]
        in_label = scores.counts.label > 0
        torch.testing.assert_close(ours[in_label].float(), monai[in_label].float())
        assert torch.isnan(monai[~in_label]).all()
    monai_mean = DiceMetric(include_background=False, reduction="mean")
    monai_mean(*one_hots)
    assert scores.dice_by["b"] == pytest.approx(float(monai_mean.aggregate()), abs=1e-6)


def test_a_equals_monai_slice_by_slice():
    generator = torch.Generator().manual_seed(4)
    label = torch.randint(0, 3, (6, 12, 12), generator=generator)
    pred = torch.randint(0, 3, (6, 12, 12), generator=generator)
    monai = DiceMetric(include_background=True, reduction="mean", ignore_empty=True)
    monai(one_hot(pred[:, None], 3), one_hot(label[:, None], 3))
    assert subject_scores(pred, label, 3).dice_by["a"] == pytest.approx(float(monai.aggregate()), abs=1e-6)
