"""Balanced assignment to prototypes, and its prediction by the other modality (card 8)."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.prototypes import sinkhorn, swapped_prediction


def test_two_samples_of_one_preference_share_all_prototypes():
    """A softmax would give both to the first one."""
    scores = torch.tensor([[0.3, 0.0], [0.3, 0.0]])
    q = sinkhorn(scores, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(q, torch.full((2, 2), 0.5))
    assert (scores / 0.05).softmax(1)[0, 0] > 0.99


def test_after_three_rounds_rows_sum_to_1_and_prototypes_are_used_alike():
    scores = torch.rand(64, 8) * 0.4 - 0.2
    q = sinkhorn(scores.requires_grad_(), torch.ones(64, dtype=torch.bool))
    torch.testing.assert_close(q.sum(1), torch.ones(64))
    assert ((q.sum(0) - 8).abs() < 0.05 * 8).all()
    assert not q.requires_grad


def test_rows_that_do_not_count_take_no_mass_and_change_nothing():
    scores, counted = torch.rand(6, 3), torch.tensor([True, True, False, True, False, True])
    q = sinkhorn(scores, counted)
    assert not q[~counted].any()
    torch.testing.assert_close(q[counted], sinkhorn(scores[counted], torch.ones(4, dtype=torch.bool)))


def test_half_precision_scores_do_not_underflow():
    q = sinkhorn(torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float16), torch.ones(2, dtype=torch.bool))
    assert q.dtype == torch.float32
    torch.testing.assert_close(q, torch.eye(2), atol=1e-6, rtol=0)


def test_each_modality_predicts_the_other_by_hand():
    first, second = torch.tensor([[0.2, 0.0]]), torch.tensor([[0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    loss = swapped_prediction(first, second, targets, torch.ones(1, dtype=torch.bool), temperature=0.2)
    predicted = math.log1p(math.exp(1.0))  # softmax (1, 0) of the first against the second's (0, 1)
    assert loss.item() == pytest.approx((predicted + math.log(2)) / 2)
