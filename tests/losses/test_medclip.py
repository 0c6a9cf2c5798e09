"""MedCLIP's objective on class prompts: targets by hand, what cancels, what takes no part (card 7)."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.medclip import MedCLIPLoss


def logits_of(pooled):
    """Attention logits (B, C, 2, 2) whose mean over the grid is this."""
    return torch.tensor(pooled)[:, :, None, None].expand(-1, -1, 2, 2).clone()


def label_of(present, size=8):
    """(1, 1, 8, 8) that shows these classes."""
    codes = torch.tensor(present)
    return codes.repeat(-(-size * size // len(present)))[: size * size].view(1, 1, size, size)


def test_target_of_three_classes_two_present():
    """Logits whose softmax is the target (.4223, .4223, .1554) have its entropy as their loss."""
    target = torch.tensor([0.4223, 0.4223, 0.1554])
    part = MedCLIPLoss().parts(logits_of([target.log().tolist()]), label_of([0, 1]))["over_classes"]
    assert part.item() == pytest.approx(-(target * target.log()).sum().item(), abs=1e-3)
    wrong = MedCLIPLoss().parts(logits_of([[1.0, 1.0, 0.0]]), label_of([0, 2]))["over_classes"].item()
    z = math.log(2 * math.e + 1)
    assert wrong == pytest.approx(0.4223 * (z - 1) + 0.1554 * (z - 1) + 0.4223 * z, abs=1e-3)


@pytest.mark.parametrize(("coding", "present", "absent"), [("binary", 0.0552, 0.0203), ("signed", 0.0575, 0.0078)])
def test_with_17_of_20_classes_present_the_signal_is_small(coding, present, absent):
    target = torch.tensor([present] * 17 + [absent] * 3)
    label = label_of(list(range(17)))
    floor = MedCLIPLoss(presence_coding=coding).parts(logits_of([target.log().tolist()]), label)["over_classes"]
    even = MedCLIPLoss(presence_coding=coding).parts(logits_of([[0.0] * 20]), label)["over_classes"]
    assert even.item() == pytest.approx(math.log(20), abs=1e-4)
    if coding == "binary":
        assert floor.item() == pytest.approx(2.957, abs=1e-3)
    else:
        assert floor.item() < 2.957


def test_over_slices_by_hand_and_total_is_the_mean_of_both():
    """Class 1 in the first of two slices: target softmax(1, 0); background in both: ln 2 for equal logits."""
    label = torch.cat([label_of([0, 1]), label_of([0])])
    parts = MedCLIPLoss().parts(logits_of([[0.0, 1.0], [0.0, 0.0]]), label)
    p = math.e / (1 + math.e)
    of_class_1 = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert parts["over_slices"].item() == pytest.approx((math.log(2) + of_class_1) / 2, abs=1e-6)
    assert parts["loss"].item() == pytest.approx((parts["over_classes"] + parts["over_slices"]).item() / 2)


def test_a_constant_on_all_logits_and_the_order_of_classes_change_nothing():
    logits, label = torch.randn(3, 5, 2, 2), torch.randint(0, 5, (3, 1, 4, 4))
    label[0].clamp_(max=2)
    loss, order = MedCLIPLoss()(logits, label), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(MedCLIPLoss()(logits + 7.5, label), loss)
    torch.testing.assert_close(MedCLIPLoss()(logits[:, order], order.argsort()[label]), loss)


def test_where_a_class_lies_does_not_matter():
    logits, label = torch.randn(2, 4, 3, 3), torch.randint(0, 4, (2, 1, 12, 12))
    moved = label.flatten(2)[:, :, torch.randperm(144)].view_as(label)
    torch.testing.assert_close(MedCLIPLoss()(logits, moved), MedCLIPLoss()(logits, label))


def test_a_class_that_is_never_labeled_enters_neither_softmax():
    logits, label = torch.randn(3, 4, 2, 2, requires_grad=True), torch.randint(0, 2, (3, 1, 4, 4))
    label[0, 0, 0, 0] = 3
    loss = MedCLIPLoss(unannotated=(2,))(logits, label)
    kept = MedCLIPLoss()(logits[:, [0, 1, 3]], torch.where(label == 3, 2, label))
    torch.testing.assert_close(loss, kept)
    loss.backward()
    assert not logits.grad[:, 2].any() and logits.grad[:, [0, 1, 3]].any()


def test_of_a_partly_annotated_slice_only_what_it_shows_is_known():
    """The second slice shows 0 and 1, and nobody knows of 2: its pair with 2 enters neither softmax."""
    logits, label = torch.randn(2, 3, 2, 2, requires_grad=True), torch.cat([label_of([0, 2]), label_of([0, 1])])
    label[1, 0, 0, 0] = 255
    parts = MedCLIPLoss().parts(logits, label)
    pooled = logits.mean((2, 3))
    first = -(torch.tensor([1.0, 0.0, 1.0]).softmax(0) * pooled[0].log_softmax(0)).sum()
    second = -pooled[1, :2].log_softmax(0).mean()
    torch.testing.assert_close(parts["over_classes"], (first + second) / 2)
    parts["loss"].backward()
    assert not logits.grad[1, 2].any() and logits.grad[1, :2].any()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"expected one of \['binary', 'signed'\]"):
        MedCLIPLoss(presence_coding="ternary")
    with pytest.raises(ValueError, match="unannotated"):
        MedCLIPLoss(unannotated=(-1,))
    with pytest.raises(ValueError, match="not one-hot"):
        MedCLIPLoss()(torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 16, 16))
