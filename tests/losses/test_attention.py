"""Eqs. 1 and 2: values worked out by hand, properties, degenerate cases, gradients."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.attention import (
    AttentionLoss,
    PixelAttentionLoss,
    TokenAttentionLoss,
    log_softmax_and_complement,
    masks_and_known_cells,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# Two classes on a 1 x 2 grid, one pixel per cell: left is class 1, right is background.
LABEL = torch.tensor([[[[1, 0]]]])
A = torch.tensor([[[[0.2, 0.6]], [[0.8, 0.4]]]])
LOGITS = torch.logit(A)


def test_token_loss_by_hand():
    # background: 0.6 / 0.8 inside -> (1 - 0.75)^2; class 1: 0.8 / 1.2 inside -> (1 - 2/3)^2
    expected = (0.25**2 + (1 / 3) ** 2) / 2
    assert TokenAttentionLoss()(LOGITS, LABEL).item() == pytest.approx(expected, rel=1e-5)


def test_pixel_loss_by_hand():
    background = -(math.log(0.8) + math.log(0.6)) / 2
    structure = -(math.log(0.8) + math.log(0.6)) / 2
    assert PixelAttentionLoss()(LOGITS, LABEL).item() == pytest.approx((background + structure) / 2, rel=1e-5)


def test_loss_is_the_weighted_sum_of_its_parts():
    parts = AttentionLoss().parts(LOGITS, LABEL)
    assert parts["loss"].item() == pytest.approx((parts["token"].item() + parts["pixel"].item()) / 2)
    assert AttentionLoss()(LOGITS, LABEL).item() == pytest.approx(parts["loss"].item())
    assert AttentionLoss(1.0, 0.0)(LOGITS, LABEL).item() == pytest.approx(parts["token"].item())
    assert AttentionLoss(0.0, 2.0)(LOGITS, LABEL).item() == pytest.approx(2 * parts["pixel"].item())


def test_weight_of_absent_classes_by_hand():
    logits = torch.cat([LOGITS, torch.zeros(1, 1, 1, 2)], dim=1)  # class 2 is absent, its pixel term log 2
    shown = -(math.log(0.8) + math.log(0.6)) / 2
    for weight in (0.0, 0.25, 1.0):
        expected = (2 * shown + weight * math.log(2)) / (2 + weight)
        loss = PixelAttentionLoss(absent_weight=weight)(logits, LABEL)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    present_only = PixelAttentionLoss(negatives="present", absent_weight=1.0)(logits, LABEL)
    assert present_only.item() == pytest.approx(shown, rel=1e-5)


def test_weight_of_absent_classes_leaves_the_token_loss_alone():
    logits = torch.randn(1, 4, 1, 2)
    first, second = (AttentionLoss(absent_weight=w).parts(logits, LABEL) for w in (0.1, 1.0))
    assert torch.equal(first["token"], second["token"]) and not torch.equal(first["pixel"], second["pixel"])


def test_softmax_activation_by_hand():
    logits = torch.tensor([[[[0.0, 1.0]], [[2.0, -1.0]]]])
    p = torch.softmax(logits, dim=1)
    inside = (p[0, 0, 0, 1] / p[0, 0].sum(), p[0, 1, 0, 0] / p[0, 1].sum())
    token = ((1 - inside[0]) ** 2 + (1 - inside[1]) ** 2) / 2
    pixel = (
        -(
            torch.log(1 - p[0, 0, 0, 0])
            + torch.log(p[0, 0, 0, 1])
            + torch.log(p[0, 1, 0, 0])
            + torch.log(1 - p[0, 1, 0, 1])
        )
        / 4
    )
    parts = AttentionLoss(activation="softmax").parts(logits, LABEL)
    assert parts["token"].item() == pytest.approx(token.item(), rel=1e-5)
    assert parts["pixel"].item() == pytest.approx(pixel.item(), rel=1e-5)


def test_attention_wholly_inside_costs_nothing():
    logits = torch.where(torch.tensor([[[[False, True]], [[True, False]]]]), 40.0, -40.0)
    parts = AttentionLoss().parts(logits, LABEL)
    assert parts["token"].item() == pytest.approx(0, abs=1e-6)
    assert parts["pixel"].item() == pytest.approx(0, abs=1e-6)


def test_token_loss_ignores_absent_classes():
    more = torch.cat([LOGITS, torch.full((1, 3, 1, 2), 5.0)], dim=1)
    assert TokenAttentionLoss()(more, LABEL).item() == pytest.approx(TokenAttentionLoss()(LOGITS, LABEL).item())


def test_negatives_all_punishes_absent_classes_and_present_does_not():
    absent = torch.cat([LOGITS, torch.full((1, 1, 1, 2), logit(0.9))], dim=1)
    two = PixelAttentionLoss()(LOGITS, LABEL).item()
    assert PixelAttentionLoss(negatives="present")(absent, LABEL).item() == pytest.approx(two, rel=1e-5)
    expected = (2 * two - math.log(0.1)) / 3
    assert PixelAttentionLoss(negatives="all")(absent, LABEL).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("negatives", ["all", "present"])
def test_unannotated_classes_have_no_effect_and_no_gradient(activation, negatives):
    label = torch.randint(0, 3, (2, 1, 16, 8))
    three = torch.randn(2, 3, 4, 2)
    four = torch.cat([three, 10 * torch.randn(2, 1, 4, 2)], dim=1).requires_grad_()
    loss = AttentionLoss(activation=activation, negatives=negatives, unannotated=(3,))(four, label)
    expected = AttentionLoss(activation=activation, negatives=negatives)(three, label)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert not four.grad[:, 3].any()
    assert four.grad[:, :3].any()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("binarise", ["max_pool", "bilinear"])
def test_gradcheck(activation, binarise):
    label = torch.randint(0, 3, (2, 1, 8, 8))
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    loss = AttentionLoss(activation=activation, binarise=binarise)
    assert torch.autograd.gradcheck(lambda x: loss(x, label), (logits,))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("negatives", ["all", "present"])
@pytest.mark.parametrize("size", [0.0, 300.0, -300.0, 6e4])
def test_finite_for_extreme_logits_and_labels_of_no_class(activation, negatives, size):
    logits = (torch.randn(2, 4, 4, 2) + size).requires_grad_()
    label = torch.randint(0, 4, (2, 1, 16, 8))
    label[0] = 255  # no class at all
    loss = AttentionLoss(activation=activation, negatives=negatives)(logits, label)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_empty_masks_give_zero_and_zero_gradient():
    logits = torch.randn(2, 3, 4, 2, requires_grad=True)
    label = torch.full((2, 1, 16, 8), 255)
    loss = AttentionLoss(negatives="present")(logits, label)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits = (5 * torch.randn(2, 3, 4, 2)).to(dtype)
    label = torch.randint(0, 3, (2, 1, 16, 8), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = AttentionLoss()(logits, label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(AttentionLoss()(logits.float(), label).item(), rel=1e-6)


def test_a_thin_disc_survives_max_pooling_but_not_bilinear_downscaling():
    label = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    label[..., 4:6, :] = 1  # 2 of the 16 rows of a cell
    codes = torch.arange(2)
    pooled = masks_and_known_cells(label, codes, (2, 2), "max_pool")[0][0]
    assert pooled[1].tolist() == [[True, True], [False, False]]
    assert pooled[0].all()  # more than half of every cell is background
    assert not masks_and_known_cells(label, codes, (2, 2), "bilinear")[0][0, 1].any()


def test_background_covers_a_cell_only_above_half():
    label = torch.zeros(1, 1, 2, 4, dtype=torch.uint8)
    label[..., 0, :2] = 1  # exactly half of the left cell
    assert masks_and_known_cells(label, torch.arange(2), (1, 2))[0][0, :, 0].tolist() == [[False, True], [True, False]]


def test_masks_on_the_grid_of_the_label_are_the_label():
    label = torch.randint(0, 3, (2, 1, 4, 4))
    for mode in ("max_pool", "bilinear"):
        mask, known = masks_and_known_cells(label, torch.arange(3), (4, 4), mode)
        assert torch.equal(mask.int().argmax(1, keepdim=True), label) and known.all()


def test_complement_of_a_softmax_is_exact_at_both_ends():
    logits = torch.tensor([50.0, 0.0, -50.0], dtype=torch.float64).view(1, 3, 1, 1)
    p = torch.softmax(logits, 1)
    rest = torch.stack([p[0, 1] + p[0, 2], p[0, 0] + p[0, 2], p[0, 0] + p[0, 1]])[None]
    for dtype in (torch.float64, torch.float32):
        log_p, log_rest = log_softmax_and_complement(logits.to(dtype))
        torch.testing.assert_close(log_rest.double(), rest.log(), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(log_p.double(), p.log(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"binarise": "area"},
        {"negatives": "none"},
        {"activation": "tanh"},
        {"token_weight": -1.0},
        {"unannotated": (-1,)},
        {"absent_weight": -1.0},
        {"absent_weight": 0.5, "negatives": "present"},
    ],
)
def test_unknown_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AttentionLoss(**options)


def test_wrong_shapes_are_refused():
    loss = AttentionLoss()
    with pytest.raises(ValueError, match="not one-hot"):
        loss(torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="smaller than the grid"):
        loss(torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match="shorten `unannotated`"):
        AttentionLoss(activation="softmax", unannotated=(1, 2))(torch.rand(1, 3, 4, 4), torch.zeros(1, 1, 8, 8))
