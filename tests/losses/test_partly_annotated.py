"""Stage 1 on label maps with pixels that nobody annotated (255)."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.attention import AttentionLoss, PixelAttentionLoss, TokenAttentionLoss, masks_and_known_cells
from cps4_monai.losses.presence import PresenceLoss

LABEL = torch.tensor(
    [
        [1, 255, 0, 0],
        [255, 255, 0, 0],
        [255, 255, 2, 0],
        [255, 255, 0, 0],
    ],
    dtype=torch.uint8,
)[None, None]  # four cells of 2 x 2: a structure in sight, background, nothing annotated, all annotated
A = torch.tensor([[[0.5, 0.9], [0.5, 0.7]], [[0.8, 0.2], [0.9, 0.1]], [[0.5, 0.3], [0.5, 0.6]]])[None]


def test_a_cell_is_known_where_ignored_pixels_cannot_change_its_mask():
    masks, known = masks_and_known_cells(LABEL, torch.arange(3), (2, 2))
    assert masks[0].int().tolist() == [[[0, 1], [0, 1]], [[1, 0], [0, 0]], [[0, 0], [0, 1]]]
    assert known[0].int().tolist() == [[[0, 1], [0, 1]], [[1, 1], [0, 1]], [[0, 1], [0, 1]]]


def test_of_bilinear_masks_too():
    masks, known = masks_and_known_cells(LABEL, torch.arange(3), (2, 2), "bilinear")
    assert masks[0].int().tolist() == [[[0, 1], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    assert (known == torch.tensor([[0, 1], [0, 1]]).bool()).all()


def test_token_loss_worked_out_by_hand():
    structure, other = (1 - 0.8 / (0.8 + 0.2 + 0.1)) ** 2, (1 - 0.6 / (0.3 + 0.6)) ** 2
    assert TokenAttentionLoss()(A.logit(), LABEL).item() == pytest.approx((0 + structure + other) / 3, rel=1e-5)


def test_pixel_loss_worked_out_by_hand():
    ln = math.log
    each = [(ln(0.9) + ln(0.7)) / 2, (ln(0.8) + ln(0.8) + ln(0.9)) / 3, (ln(0.7) + ln(0.6)) / 2]
    assert PixelAttentionLoss()(A.logit(), LABEL).item() == pytest.approx(-sum(each) / 3, rel=1e-5)


def test_a_class_that_is_known_nowhere_leaves_the_mean_over_classes():
    label = torch.full((1, 1, 4, 4), 255)
    label[..., 0, 0] = 1
    loss = PixelAttentionLoss()(A.logit(), label).item()
    assert loss == pytest.approx(-math.log(0.8), rel=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("binarise", ["max_pool", "bilinear"])
@pytest.mark.parametrize("absent_weight", [1.0, 0.25])
def test_cells_without_annotation_have_no_effect_and_no_gradient(activation, binarise, absent_weight):
    loss = AttentionLoss(activation=activation, binarise=binarise, absent_weight=absent_weight)
    logits, wild = A.logit().requires_grad_(), A.logit()
    wild[..., 1, 0] += torch.tensor([30.0, -50.0, 8.0])
    value = loss(logits, LABEL)
    value.backward()
    assert torch.equal(value.detach(), loss(wild, LABEL))
    assert not logits.grad[..., 1, 0].any() and logits.grad[..., 1, 1].any()


def test_presence_counts_what_a_partly_annotated_slice_shows_and_nothing_else():
    pooled = A.logit().flatten(2)[0, :, [0, 1, 3]].mean(1)  # the cells that somebody annotated, in part or all
    seen = torch.nn.functional.softplus(-pooled)
    assert PresenceLoss()(A.logit(), LABEL).item() == pytest.approx(seen.mean().item(), rel=1e-5)  # all three are shown
    hidden = LABEL.clone()
    hidden[LABEL == 2] = 255
    assert PresenceLoss()(A.logit(), hidden).item() == pytest.approx(seen[:2].mean().item(), rel=1e-5)
    assert PresenceLoss()(A.logit(), torch.full_like(LABEL, 255)).item() == 0
