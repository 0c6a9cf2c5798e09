"""Losses of stage 2: values worked out by hand, degenerate cases, gradients, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.semi_supervised import (
    consistency_mse,
    enhance_cross_entropy,
    enhanced_target,
    map_confidence,
    ramp_up,
    supervised_cross_entropy,
    text_cross_entropy,
)

LN2, LN3 = math.log(2), math.log(3)


def pixels(*columns):
    """Logits (1, C, 1, W) from one list of class logits per pixel."""
    return torch.tensor(columns, dtype=torch.float32).T[None, :, None, :]


def codes(*values):
    return torch.tensor(values)[None, None, None, :]


# Softmax (1/2, 1/2, 0) would need -inf; (ln 2, 0, 0) has (1/2, 1/4, 1/4), and zeros have thirds.
TWO = pixels([LN2, 0, 0], [0, 0, 0])


def test_cross_entropy_by_hand():
    expected = (math.log(4) + LN3) / 2
    assert supervised_cross_entropy(TWO, codes(1, 2)).item() == pytest.approx(expected)
    assert text_cross_entropy(TWO, codes(1, 2)).item() == pytest.approx(expected)


def test_perfect_prediction_costs_nothing():
    logits = pixels([50, 0, 0], [0, 0, 50])
    assert supervised_cross_entropy(logits, codes(0, 2)).item() == pytest.approx(0, abs=1e-12)


def test_ignored_pixels_leave_the_mean():
    assert text_cross_entropy(TWO, codes(1, -1)).item() == pytest.approx(math.log(4))


def test_nothing_but_ignored_pixels_is_zero_with_zero_gradient():
    logits = TWO.clone().requires_grad_()
    loss = text_cross_entropy(logits, codes(-1, -1))
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_unannotated_channel_takes_no_probability_and_no_gradient():
    logits = pixels([LN2, 30.0, 0]).requires_grad_()
    loss = supervised_cross_entropy(logits, codes(2), unannotated=(1,))
    loss.backward()
    assert loss.item() == pytest.approx(LN3)
    assert logits.grad[0, 1, 0, 0] == 0
    assert logits.grad[0, 0, 0, 0].item() == pytest.approx(2 / 3)


def test_pixels_of_an_unannotated_class_are_left_out():
    assert supervised_cross_entropy(TWO, codes(1, 2), unannotated=(1,)).item() == pytest.approx(LN2)


def test_uint8_labels_and_half_logits_are_fine():
    loss = supervised_cross_entropy(TWO.half(), codes(1, 2).to(torch.uint8))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx((math.log(4) + LN3) / 2, abs=1e-3)


def test_confidence_weighs_pixels_of_the_text_loss_by_hand():
    logits = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]).log().T.reshape(1, 2, 1, 3)
    prompt_map = torch.tensor([[[[0, 1, -1]]]])
    confidence = torch.tensor([[[[0.25, 1.0, 1.0]]]])
    expected = -(0.25 * math.log(0.5) + math.log(0.8)) / 2
    assert text_cross_entropy(logits, prompt_map, confidence=confidence).item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(
        text_cross_entropy(logits, prompt_map, confidence=torch.ones(1, 1, 1, 3)),
        text_cross_entropy(logits, prompt_map),
    )
    with pytest.raises(ValueError, match="expected one shape"):
        text_cross_entropy(logits, prompt_map, confidence=torch.ones(1, 1, 1, 2))


def test_confidence_is_the_map_of_the_named_class():
    maps = torch.tensor([0.3, 0.9]).view(1, 2, 1, 1)
    prompt_map = torch.tensor([[[[0, 1], [1, -1]]]])
    out = map_confidence(prompt_map, torch.logit(maps))
    torch.testing.assert_close(out, torch.tensor([[[[0.3, 0.9], [0.9, 0.0]]]]))
    softmax = map_confidence(prompt_map, maps, "softmax")
    torch.testing.assert_close(softmax[0, 0, 0], torch.softmax(torch.tensor([0.3, 0.9]), 0))
    untrained = torch.cat([maps, torch.full((1, 1, 1, 1), 9.0)], dim=1)  # a class that stage 1 never saw has no share
    torch.testing.assert_close(map_confidence(prompt_map, untrained, "softmax", unannotated=(2,)), softmax)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("soft", [[0.25, 0.625, 0.125], [1 / 6, 1 / 6, 2 / 3]]),
        ("sum", [[0.5, 1.25, 0.25], [1 / 3, 1 / 3, 4 / 3]]),
        ("hard", [[0, 1, 0], [0, 0, 1]]),
        ("teacher", [[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]),
    ],
)
def test_enhanced_target_by_hand(mode, expected):
    torch.testing.assert_close(enhanced_target(TWO, codes(1, 2), mode), pixels(*expected))


@pytest.mark.parametrize("mode", ["soft", "sum", "teacher"])
def test_teacher_stands_alone_where_the_text_is_empty(mode):
    torch.testing.assert_close(
        enhanced_target(TWO, codes(-1, 2), mode)[..., :1], TWO.softmax(dim=1)[..., :1], rtol=0, atol=1e-7
    )


def test_hard_target_of_an_empty_pixel_is_the_teachers_choice():
    assert enhanced_target(TWO, codes(-1, 2), "hard")[0, :, 0, 0].tolist() == [1, 0, 0]


def test_soft_target_adds_up_to_one_and_sum_to_two():
    logits, text = torch.randn(2, 5, 6, 7), torch.randint(0, 5, (2, 1, 6, 7))
    torch.testing.assert_close(enhanced_target(logits, text, "soft").sum(1), torch.ones(2, 6, 7))
    torch.testing.assert_close(enhanced_target(logits, text, "sum").sum(1), torch.full((2, 6, 7), 2.0))


def test_unannotated_class_enters_no_target():
    text = codes(1, 2)
    for mode in ("soft", "hard", "sum", "teacher"):
        target = enhanced_target(pixels([0, 9, 0], [0, 9, 0]), text, mode, unannotated=(1,))
        assert target[0, 1].abs().sum() == 0
    soft = enhanced_target(pixels([0, 9, 0], [0, 9, 0]), text, "soft", unannotated=(1,))
    torch.testing.assert_close(soft[0, :, 0, 0], torch.tensor([0.5, 0, 0.5]))  # the text's class is none: teacher alone


def test_enhance_loss_by_hand():
    target = pixels([0.25, 0.5, 0.25], [0, 0, 1])
    expected = ((0.25 * LN2 + 0.75 * math.log(4)) + LN3) / 2
    assert enhance_cross_entropy(TWO, target).item() == pytest.approx(expected)


def test_enhance_loss_of_a_one_hot_target_is_the_hard_cross_entropy():
    logits, text = torch.randn(2, 4, 3, 3), torch.randint(0, 4, (2, 1, 3, 3))
    one_hot = enhanced_target(logits, text, "hard")
    torch.testing.assert_close(enhance_cross_entropy(logits, one_hot), text_cross_entropy(logits, text))


def test_literal_sum_is_twice_the_soft_target():
    student, teacher, text = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3), torch.randint(0, 4, (1, 1, 3, 3))
    once = enhance_cross_entropy(student, enhanced_target(teacher, text, "soft"))
    torch.testing.assert_close(enhance_cross_entropy(student, enhanced_target(teacher, text, "sum")), 2 * once)


def test_no_gradient_reaches_the_target():
    teacher = TWO.clone().requires_grad_()
    student = TWO.clone().requires_grad_()
    target = enhanced_target(teacher, codes(1, 2))
    assert not target.requires_grad
    leaky = target.clone().requires_grad_()
    (enhance_cross_entropy(student, leaky) + consistency_mse(student, teacher)).backward()
    assert teacher.grad is None and leaky.grad is None and student.grad is not None


def test_consistency_by_hand():
    # softmaxes (1/2, 1/4, 1/4) against thirds: squares 1/36, 1/144, 1/144 over 3 classes
    loss = consistency_mse(pixels([LN2, 0, 0]), pixels([0, 0, 0]))
    assert loss.item() == pytest.approx((1 / 36 + 2 / 144) / 3)


def test_consistency_means_over_annotated_classes_only():
    # without class 1: (2/3, 1/3) against halves, squares 1/36 each, over 2 classes
    loss = consistency_mse(pixels([LN2, 7, 0]), pixels([0, -7, 0]), unannotated=(1,))
    assert loss.item() == pytest.approx(1 / 36)


@pytest.mark.parametrize("loss", ["text", "enhance", "consistency"])
def test_gradients_are_those_of_finite_differences(loss):
    # The losses compute in float32, hence the coarse step and tolerance.
    torch.manual_seed(0)
    text, other = torch.randint(-1, 4, (1, 1, 2, 3)), torch.randn(1, 4, 2, 3)
    functions = {
        "text": lambda x: text_cross_entropy(x, text, (2,)),
        "enhance": lambda x: enhance_cross_entropy(x, enhanced_target(other, text, "soft", (2,)), (2,)),
        "consistency": lambda x: consistency_mse(x, other, (2,)),
    }
    logits = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(functions[loss], (logits,), eps=1e-2, atol=2e-3, rtol=5e-2, nondet_tol=0)


def test_ramp_by_hand():
    assert ramp_up(0, 0) == 1.0 and ramp_up(7, 0) == 1.0
    assert ramp_up(0, 10) == pytest.approx(math.exp(-5))
    assert ramp_up(5, 10) == pytest.approx(math.exp(-1.25))
    assert ramp_up(10, 10) == 1.0 and ramp_up(11, 10) == 1.0


def test_bad_input_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(1, 2\).*expected \(1, 1, 1, 2\)"):
        text_cross_entropy(TWO, torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="expected \\(B, C, H, W\\)"):
        enhance_cross_entropy(TWO[0], TWO[0])
    with pytest.raises(TypeError, match="float32"):
        supervised_cross_entropy(TWO, codes(1, 2).float())
    with pytest.raises(ValueError, match="expected one of"):
        enhanced_target(TWO, codes(1, 2), "softish")
    with pytest.raises(ValueError, match="needs a prompt map"):
        enhanced_target(TWO, None)
    with pytest.raises(ValueError, match="equal ones"):
        enhance_cross_entropy(TWO, TWO[..., :1])
    with pytest.raises(ValueError, match="equal ones"):
        consistency_mse(TWO, TWO[..., :1])
    with pytest.raises(ValueError, match="outside 1 to 2"):
        supervised_cross_entropy(TWO, codes(1, 2), unannotated=(3,))
    with pytest.raises(ValueError, match="ramp-up length is -1"):
        ramp_up(0, -1)
