from __future__ import annotations

import pytest
import torch

from cps4_monai.metrics.overlap import OverlapCounts, dice_score, iou_score, overlap_counts


def test_counts_are_those_worked_out_by_hand():
    label = torch.tensor([[0, 0, 1, 1, 2], [0, 0, 0, 0, 0]])
    pred = torch.tensor([[0, 1, 1, 2, 2], [0, 0, 0, 0, 1]])
    counts = overlap_counts(pred, label, 3)
    assert counts.intersection.tolist() == [[1, 1, 1], [4, 0, 0]]
    assert counts.pred.tolist() == [[1, 2, 2], [4, 1, 0]]
    assert counts.label.tolist() == [[2, 2, 1], [5, 0, 0]]
    assert counts.total().intersection.tolist() == [5, 1, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.uint32, torch.int64])
def test_every_integer_type_counts_alike(dtype):
    label = torch.tensor([[0, 0, 1, 1, 2]]).to(dtype)
    pred = torch.tensor([[0, 1, 1, 2, 2]]).to(dtype)
    assert overlap_counts(pred, label, 3).intersection.tolist() == [[1, 1, 1]]


def test_counts_equal_a_loop_over_classes():
    generator = torch.Generator().manual_seed(1)
    pred = torch.randint(0, 20, (4, 9, 7), generator=generator, dtype=torch.uint8)
    label = torch.randint(0, 20, (4, 9, 7), generator=generator)
    counts = overlap_counts(pred, label, 20)
    for code in range(20):
        p, q = (pred == code).flatten(1), (label == code).flatten(1)
        assert torch.equal(counts.intersection[:, code], (p & q).sum(1))
        assert torch.equal(counts.pred[:, code], p.sum(1))
        assert torch.equal(counts.label[:, code], q.sum(1))


def test_unannotated_class_counts_as_background_on_both_sides():
    label = torch.tensor([[0, 0, 2, 2]])
    pred = torch.tensor([[1, 0, 1, 2]])  # class 1 over background, and over class 2
    counts = overlap_counts(pred, label, 3, unannotated=[1])
    assert counts.pred.tolist() == [[3, 0, 1]]
    assert counts.label.tolist() == [[2, 0, 2]]
    assert counts.intersection.tolist() == [[2, 0, 1]]
    assert torch.isnan(dice_score(counts))[0, 1]


def test_inputs_are_left_as_they_were():
    label = torch.tensor([[0, 1, 2]])
    pred = torch.tensor([[2, 1, 0]])
    overlap_counts(pred, label, 3)
    assert label.tolist() == [[0, 1, 2]] and pred.tolist() == [[2, 1, 0]]


def test_dice_and_iou_keep_their_identity():
    generator = torch.Generator().manual_seed(2)
    pred, label = torch.randint(0, 5, (2, 3, 400), generator=generator).unbind(0)
    counts = overlap_counts(pred, label, 5)
    dice, iou = dice_score(counts), iou_score(counts)
    torch.testing.assert_close(dice, 2 * iou / (1 + iou))


def test_same_maps_score_one_and_classes_in_neither_score_nan():
    label = torch.tensor([[0, 2, 2]])
    counts = overlap_counts(label, label, 4)
    assert dice_score(counts)[0, [0, 2]].tolist() == [1, 1]
    assert torch.isnan(dice_score(counts)[0, [1, 3]]).all() and torch.isnan(iou_score(counts)[0, [1, 3]]).all()


def test_total_of_no_slices_is_zero():
    counts = overlap_counts(torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4, dtype=torch.long), 2)
    assert isinstance(counts.total(), OverlapCounts) and counts.total().label.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("pred", "label", "unannotated", "error", "words"),
    [
        (torch.zeros(1, 3).long(), torch.zeros(1, 4).long(), (), ValueError, "one grid"),
        (torch.zeros(3).long(), torch.zeros(3).long(), (), ValueError, "slices first"),
        (torch.zeros(1, 3), torch.zeros(1, 3).long(), (), TypeError, "pred is torch.float32"),
        (torch.full((1, 3), 3), torch.zeros(1, 3).long(), (), ValueError, "3 to 3; expected 0 to 2"),
        (torch.zeros(1, 3).long(), torch.full((1, 3), -1), (), ValueError, "label holds values from -1"),
        (torch.zeros(1, 3).long(), torch.zeros(1, 3).long(), (0,), ValueError, "unannotated holds"),
        (torch.zeros(1, 3).long(), torch.zeros(1, 3).long(), (3,), ValueError, "unannotated holds"),
    ],
)
def test_bad_input_is_named(pred, label, unannotated, error, words):
    with pytest.raises(error, match=words):
        overlap_counts(pred, label, 3, unannotated)
