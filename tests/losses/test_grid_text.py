"""L_text on the attention's grid: by hand, poolings, what has no gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softmax

from cps4_monai.losses.grid_text import GridTextLoss


def bce(p: float, target: float) -> float:
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


# Two pixels in one cell, two classes: 0.9 / 0.1 and 0.4 / 0.6; A is 0.7 for the background, 0.8 for the structure.
LOGITS = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log().T.reshape(1, 2, 1, 2)
MAPS = torch.logit(torch.tensor([0.7, 0.8])).view(1, 2, 1, 1)


def test_structures_by_their_maximum_and_background_by_its_mean():
    expected = (bce(0.65, 0.7) + bce(0.6, 0.8)) / 2
    assert GridTextLoss()(LOGITS, MAPS).item() == pytest.approx(expected, rel=1e-5)


def test_all_by_their_mean():
    expected = (bce(0.65, 0.7) + bce(0.35, 0.8)) / 2
    assert GridTextLoss(pooling="average")(LOGITS, MAPS).item() == pytest.approx(expected, rel=1e-5)


def test_softmax_maps():
    target = softmax(MAPS.flatten(), 0).tolist()
    expected = (bce(0.65, target[0]) + bce(0.6, target[1])) / 2
    assert GridTextLoss("softmax")(LOGITS, MAPS).item() == pytest.approx(expected, rel=1e-5)


def test_the_outline_within_a_cell_costs_nothing():
    logits, maps = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 2, 2)
    turned = logits.view(2, 3, 2, 4, 2, 4).flip(3, 5).reshape(2, 3, 8, 8)  # each cell mirrored in itself
    torch.testing.assert_close(GridTextLoss()(logits, maps), GridTextLoss()(turned, maps))


def test_gradients_reach_the_student_only_and_no_unannotated_class():
    logits, maps = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(2, 4, 3, 3, requires_grad=True)
    GridTextLoss()(logits, maps, unannotated=(2,)).backward()
    assert maps.grad is None and logits.grad[:, [0, 1, 3]].any() and not logits.grad[:, 2].any()
    kept = [0, 1, 3]
    torch.testing.assert_close(
        GridTextLoss()(logits, maps, unannotated=(2,)), GridTextLoss()(logits[:, kept], maps[:, kept])
    )


def test_certain_predictions_give_a_finite_loss():
    logits = torch.tensor([300.0, -300.0]).view(1, 2, 1, 1).requires_grad_()
    loss = GridTextLoss()(logits, -logits.detach())
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="pooling"):
        GridTextLoss(pooling="sum")
    with pytest.raises(ValueError, match="activation"):
        GridTextLoss(activation="tanh")
    with pytest.raises(ValueError, match="same slices and classes"):
        GridTextLoss()(torch.rand(1, 3, 8, 8), torch.rand(2, 3, 2, 2))


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_a_student_that_is_sure_and_wrong_is_pushed_back(pooling):
    """p rounds to 1 in float32 (logits 60 apart), A of that class is 0: the loss is 60 a class, its gradient -+1."""
    logits = torch.tensor([-30.0, 30.0]).view(1, 2, 1, 1).requires_grad_()
    loss = GridTextLoss(pooling=pooling)(logits, torch.tensor([200.0, -200.0]).view(1, 2, 1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(60.0)
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([-1.0, 1.0]))
