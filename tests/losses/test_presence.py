"""The loss of the provider `clip`: a value by hand, what it must not see, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.presence import PresenceLoss


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_binary_cross_entropy_of_the_mean_logit_by_hand():
    logits = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]], [[0.5, 0.5]]]])  # means 2, -0.5, 0.5
    label = torch.tensor([[[[0, 0, 2, 0]]]])  # classes 0 and 2 are shown
    expected = (softplus(-2.0) + softplus(-0.5) + softplus(-0.5)) / 3
    assert PresenceLoss()(logits, label).item() == pytest.approx(expected, rel=1e-6)


def test_where_a_class_lies_does_not_matter():
    logits = torch.randn(2, 4, 3, 3)
    label = torch.randint(0, 4, (2, 1, 12, 12))
    moved = label.flatten(2)[:, :, torch.randperm(144)].view_as(label)
    assert torch.equal(PresenceLoss()(logits, label), PresenceLoss()(logits, moved))


def test_unannotated_classes_have_no_effect_and_no_gradient():
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    label = torch.randint(0, 4, (2, 1, 6, 6))
    PresenceLoss(unannotated=(2,))(logits, label).backward()
    assert not logits.grad[:, 2].any() and logits.grad[:, [0, 1, 3]].any()
    kept = PresenceLoss()(logits[:, [0, 1, 3]], torch.where(label == 3, 2, torch.where(label == 2, 9, label)))
    torch.testing.assert_close(PresenceLoss(unannotated=(2,))(logits, label), kept)


def test_a_slice_that_shows_only_unannotated_classes_does_not_count():
    logits = torch.randn(2, 3, 3, 3)
    label = torch.randint(0, 2, (2, 1, 6, 6))
    label[1] = 2
    alone = PresenceLoss(unannotated=(2,))(logits[:1], label[:1])
    assert PresenceLoss(unannotated=(2,))(logits, label).item() == pytest.approx(alone.item())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unannotated"):
        PresenceLoss(unannotated=(-1,))
    with pytest.raises(ValueError, match="shorten `unannotated`"):
        PresenceLoss(unannotated=(0, 1))(torch.rand(1, 2, 2, 2), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="not one-hot"):
        PresenceLoss()(torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 16, 16))
