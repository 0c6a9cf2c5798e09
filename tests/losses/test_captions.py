"""Captions made of labels: what occurs where, and slices that are matched with captions."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.captions import annotated_classes, caption_contrast, mean_where, occurrence


def test_occurrence_by_hand_with_codes_that_belong_to_no_class():
    label = torch.tensor([[[[0, 1, 255, 255], [0, 0, 255, 255]], [[2, 2, 0, 3], [2, 2, 0, 0]]]]).view(2, 1, 2, 4)
    found = occurrence(label, 4, (1, 2), unannotated=(2,))
    assert found[0].int().flatten(1).tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    assert found[1].int().flatten(1).tolist() == [[0, 1], [0, 0], [0, 0], [0, 1]]
    assert annotated_classes(4, (2,), label.device).tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="outside 1 to 3"):
        occurrence(label, 4, (1, 2), unannotated=(4,))


def test_mean_where_nothing_counts_is_0():
    values = torch.tensor([[1.0, 3.0, math.inf], [5.0, 7.0, 9.0]])
    counted = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_where(values, counted).tolist() == [2.0, 0.0]


def test_slices_of_one_caption_are_equally_right_and_pull_no_further_once_they_are_equal():
    """Card 8: ln 2 per direction with zero gradient; with the diagonal alone the minimum is the same and never left."""
    similarity = torch.zeros(2, 2, requires_grad=True)
    same = torch.tensor([[True, False, True], [True, False, True]])
    loss = caption_contrast(similarity, similarity, same)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and not similarity.grad.any()


def test_each_direction_by_hand():
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    captions = torch.tensor([[True, False], [True, True]])
    first = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert caption_contrast(rows, rows, captions).item() == pytest.approx(first)
    swapped = caption_contrast(rows, torch.zeros(2, 2), captions).item()
    assert swapped == pytest.approx((first + math.log(2)) / 2)


def test_a_slice_that_nobody_annotated_takes_no_part():
    similarity = torch.randn(3, 3, requires_grad=True)
    captions = torch.tensor([[True, False], [False, False], [True, True]])
    loss = caption_contrast(similarity, similarity, captions)
    kept = torch.tensor([0, 2])
    without = caption_contrast(similarity[kept][:, kept], similarity[kept][:, kept], captions[kept])
    torch.testing.assert_close(loss, without)
    loss.backward()
    assert not similarity.grad[1].any() and not similarity.grad[:, 1].any()
    assert caption_contrast(similarity, similarity, captions & False).item() == 0
