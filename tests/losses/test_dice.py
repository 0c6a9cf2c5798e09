"""Soft Dice: values by hand, absent classes, pixels that do not count."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.losses.dice import segmentation_loss, soft_dice
from cps4_monai.losses.semi_supervised import supervised_cross_entropy

HALVES = torch.tensor([0, 0, 1, 1]).view(1, 1, 1, 4)


def test_a_perfect_prediction_gives_0_and_an_even_one_a_half():
    certain = torch.tensor([[20.0, 20, -20, -20], [-20, -20, 20, 20]]).view(1, 2, 1, 4)
    assert soft_dice(certain, HALVES).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(torch.zeros(1, 2, 1, 4), HALVES).item() == pytest.approx(0.5, abs=1e-5)


def test_classes_without_a_target_pixel_are_no_part_of_the_mean():
    logits = torch.randn(1, 5, 1, 4)
    with_more = soft_dice(torch.cat((logits, torch.full((1, 3, 1, 4), -1e4)), dim=1), HALVES)
    torch.testing.assert_close(soft_dice(logits, HALVES), with_more)


@pytest.mark.parametrize("code", [-1, 255, 3])
def test_pixels_without_a_target_neither_count_nor_get_a_gradient(code):
    logits = torch.randn(1, 4, 1, 4, requires_grad=True)
    codes = HALVES.clone()
    codes[..., 3] = code
    loss = soft_dice(logits, codes, unannotated=(3,))
    torch.testing.assert_close(loss, soft_dice(logits[..., :3], codes[..., :3], unannotated=(3,)))
    loss.backward()
    assert (logits.grad[..., 3] == 0).all() and (logits.grad[:, 3] == 0).all() and (logits.grad[..., :3] != 0).any()


def test_a_mask_of_pixels_and_an_empty_one():
    logits = torch.randn(1, 2, 1, 4)
    where = torch.tensor([True, True, True, False]).view(1, 1, 1, 4)
    torch.testing.assert_close(soft_dice(logits, HALVES, where=where), soft_dice(logits[..., :3], HALVES[..., :3]))
    assert soft_dice(logits, HALVES, where=torch.zeros_like(where)).item() == 0
    assert segmentation_loss(logits, HALVES, where=torch.zeros_like(where)).item() == 0


def test_the_segmentation_loss_is_the_weighted_mean_of_both():
    logits = torch.randn(1, 2, 1, 4)
    entropy, dice = supervised_cross_entropy(logits, HALVES), soft_dice(logits, HALVES)
    torch.testing.assert_close(segmentation_loss(logits, HALVES, dice_weight=0.25), 0.75 * entropy + 0.25 * dice)
    torch.testing.assert_close(segmentation_loss(logits, HALVES, dice_weight=0.0), entropy)


def test_gradient_is_that_of_the_formula():
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    codes = torch.randint(0, 3, (2, 1, 2, 2))
    loss = soft_dice(logits, codes)
    loss.backward()
    step = 1e-3
    with torch.no_grad():
        other = logits.clone()
        other[0, 1, 0, 0] += step
        assert (soft_dice(other, codes) - loss).item() / step == pytest.approx(logits.grad[0, 1, 0, 0].item(), abs=2e-3)
