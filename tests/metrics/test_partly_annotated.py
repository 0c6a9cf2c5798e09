"""Metrics on labels with voxels that nobody annotated (255): predictions there are free."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.metrics.baseline import mean_label_map
from cps4_monai.metrics.conventions import subject_scores
from cps4_monai.metrics.identification import identify_levels
from cps4_monai.metrics.overlap import overlap_counts
from cps4_monai.metrics.spine_dice import SpineDice
from cps4_monai.metrics.surface import surface_distances

LABEL = torch.tensor([[[0, 1, 1, 255]], [[2, 0, 255, 255]], [[255, 255, 255, 255]]], dtype=torch.uint8)
PRED = torch.tensor([[[0, 1, 0, 1]], [[2, 2, 3, 0]], [[1, 2, 3, 0]]], dtype=torch.uint8)


def test_counts_worked_out_by_hand():
    counts = overlap_counts(PRED, LABEL, 4)
    assert counts.intersection.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert counts.pred.tolist() == [[2, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert counts.label.tolist() == [[1, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_a_prediction_of_255_is_refused():
    with pytest.raises(ValueError, match="pred holds values from 0 to 255"):
        overlap_counts(LABEL, LABEL, 4)


def test_conventions_leave_slices_without_annotation_out():
    scores = subject_scores(PRED, LABEL, 4)
    first, second = (2 / 3 + 2 / 3) / 2, (0 + 2 / 3) / 2
    assert scores.dice_by["a"] == pytest.approx((first + second) / 2) and scores.num_slices == 2
    assert scores.dice_by["b"] == scores.dice_by["c"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert math.isnan(scores.dice[3])  # predicted where nobody looked: neither false nor missed


def test_the_metric_of_validation_says_the_same():
    metric = SpineDice(4)
    metric(PRED[None, None], LABEL[None, None])
    summary, scores = metric.summary(), subject_scores(PRED, LABEL, 4)
    for convention in "abc":
        assert summary[f"dice_{convention}"] == pytest.approx(scores.dice_by[convention])
        assert summary[f"iou_{convention}"] == pytest.approx(scores.iou_by[convention])
    assert summary["missed"] == summary["false"] == 0


def _line(*codes):
    return np.array(codes, np.uint8)[None, None]


def test_distances_stop_where_annotation_stops():
    label, pred = _line(0, 2, 2, 2, 255, 255, 255, 3), _line(0, 0, 2, 2, 2, 2, 2, 0)
    result = surface_distances(pred, label, (1, 1, 2), 4)
    # Voxels 2 and 3 against 1 to 3, 2 mm each: the 95th percentile of (2, 0, 0); unmarked, 6 mm more are predicted.
    assert result.hd95_mm[2] == pytest.approx(1.8) and np.isnan(result.hd95_mm[3])
    assert surface_distances(pred, np.where(label == 255, 0, label), (1, 1, 2), 4).hd95_mm[2] > 4


def test_levels_are_compared_within_what_is_annotated():
    label, pred = _line(2, 2, 0, 3, 3, 255, 255, 255), _line(2, 2, 0, 3, 3, 3, 3, 4)
    identified = identify_levels(pred, label, (1, 1, 10), MRSPINESEG)
    assert identified.distance_mm[3] == pytest.approx(0) and np.isnan(identified.distance_mm[4])
    assert identified.level_offset[[2, 3]].tolist() == [0, 0]


def test_only_annotated_pixels_vote_for_the_mean_label_map():
    votes = [torch.tensor([[codes]], dtype=torch.uint8) for codes in ([2, 255, 255], [255, 0, 255], [255, 3, 255])]
    assert mean_label_map(votes, 4).tolist() == [[[2, 0, 0]]]
    with pytest.raises(ValueError, match="outside 0 to 3"):
        mean_label_map([torch.tensor([[[4]]])], 4)
