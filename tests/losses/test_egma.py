"""EGMA's objective on class prompts: multi-label cross-entropy, fine contrast and masks in place of gaze (card 9)."""

from __future__ import annotations

import math

import pytest
import torch

from cps4_monai.losses.egma import EGMALoss, fine_contrast, mlce

YES, NO = True, False


def test_mlce_at_zero_with_one_positive_of_four_is_ln_2_plus_ln_4():
    positive, counted = torch.tensor([YES, NO, NO, NO]), torch.ones(4, dtype=torch.bool)
    assert mlce(torch.zeros(4), positive, counted).item() == pytest.approx(math.log(2) + math.log(4))
    assert mlce(torch.zeros(4), positive & False, counted).item() == pytest.approx(math.log(5))
    assert mlce(torch.tensor([500.0, -500, -500, -500]), positive, counted).item() == 0
    assert mlce(torch.zeros(4), positive, torch.tensor([YES, YES, NO, NO])).item() == pytest.approx(2 * math.log(2))


def test_mlce_of_huge_logits_is_finite_with_a_gradient():
    logits = torch.tensor([-3e4, 3e4], requires_grad=True)
    loss = mlce(logits, torch.tensor([YES, NO]), torch.tensor([YES, YES]))
    loss.backward()
    assert loss.item() == pytest.approx(6e4) and logits.grad.tolist() == [-1.0, 1.0]


def test_fine_contrast_by_hand():
    """Two slices of two cells; the first shows class 0, the second classes 0 and 1."""
    similarity = torch.tensor([[[1.0, 0.0], [3.0, -1.0]], [[0.0, 2.0], [1.0, 1.0]]])  # (slice, class, cell)
    captions, cells = torch.tensor([[YES, NO], [YES, YES]]), torch.ones(2, 2, dtype=torch.bool)
    image = torch.tensor([[0.5, 1.5], [1.0, 1.5]])  # mean over cells of the best class in the caption
    text = torch.tensor([[1.0, 2.0], [2.0, 1.5]])  # mean over the caption of the best cell
    rows = -image.log_softmax(1).diagonal().mean()
    columns = -text.log_softmax(0).diagonal().mean()
    assert fine_contrast(similarity, captions, cells).item() == pytest.approx(((rows + columns) / 2).item())


def test_a_caption_padded_by_an_empty_sentence_is_the_same_caption():
    """With all similarities negative, a padding of 0 would win every maximum."""
    logits, label = -1 - torch.rand(3, 3, 2, 2), torch.randint(0, 3, (3, 1, 4, 4))
    padded = torch.cat([logits, torch.zeros(3, 1, 2, 2)], dim=1)
    for loss in (EGMALoss(gaze_ratio=0.0), EGMALoss()):
        torch.testing.assert_close(loss(padded, label), loss(logits, label))


def test_masks_raise_the_logits_of_their_cells_and_lower_the_others():
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    label[:, :, 2:6, 4:6] = 1  # cells (1, 2) and (2, 2)
    EGMALoss()(logits, label).backward()
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 2] = True
    step = -logits.grad[0, 1]
    assert (step[mask] > 0).all() and (step[~mask] < 0).all()


def test_both_parts_of_the_gaze_loss_by_hand():
    """One slice of two cells, class 1 in the first one and background in the second; zero logits."""
    label = torch.tensor([[[[1, 0]]]])
    parts = EGMALoss(sentence_weight=0.8).parts(torch.zeros(1, 3, 1, 2), label)
    each = 2 * math.log(2)  # one positive, one negative: class 2 is no sentence of the slice
    assert parts["gaze"].item() == pytest.approx(each) and parts["fine"].item() == 0
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 1, 0, 0] = 2.0
    one = 2 * math.log(2) + math.log1p(math.exp(-2)) + math.log(2)  # background, class 1
    cell = math.log1p(math.exp(-2)) + math.log(2) + 2 * math.log(2)
    for weight in (0.8, 0.3):
        gaze = EGMALoss(sentence_weight=weight).parts(logits, label)["gaze"].item()
        assert gaze == pytest.approx(weight * one / 2 + (1 - weight) * cell / 2)
    uneven = torch.cat([logits, logits[:, :, :, 1:]], 3), torch.tensor([[[[1, 0, 0]]]])
    values = [EGMALoss(sentence_weight=w).parts(*uneven)["gaze"].item() for w in (0.0, 1.0)]
    assert values[0] != pytest.approx(values[1])


def test_a_cell_that_may_hold_a_class_is_no_negative_of_it():
    logits = torch.zeros(1, 2, 1, 3, requires_grad=True)
    label = torch.tensor([[[[1, 1, 0, 255, 0, 0], [1, 1, 0, 0, 0, 0]]]])
    parts = EGMALoss().parts(logits, label)
    parts["gaze"].backward()
    assert logits.grad[0, 1, 0].tolist()[1] == 0 and (logits.grad[0, 1, 0, [0, 2]] != 0).all()
    assert logits.grad[0, 0, 0, 1] < 0, "it is background for sure"


def test_without_gaze_no_mask_enters_and_the_bias_cancels():
    logits, label = torch.randn(3, 4, 2, 2), torch.randint(0, 4, (3, 1, 4, 4))
    label[0].clamp_(max=1)
    loss = EGMALoss(gaze_ratio=0.0)
    moved = label.flatten(2)[:, :, torch.randperm(16)].view_as(label)
    torch.testing.assert_close(loss(logits, moved), loss(logits, label))
    torch.testing.assert_close(loss(logits + 3, label), loss(logits, label))
    assert set(loss.parts(logits, label)) == {"loss", "fine"}
    assert EGMALoss()(logits + 3, label).item() != pytest.approx(EGMALoss()(logits, label).item())


def test_bad_input_is_refused():
    for settings in ({"gaze_ratio": -1.0}, {"sentence_weight": 1.5}):
        with pytest.raises(ValueError, match="expected 0 or more, and 0 to 1"):
            EGMALoss(**settings)
    with pytest.raises(ValueError, match="binarise is 'round'"):
        EGMALoss(binarise="round")
    with pytest.raises(ValueError, match="not one-hot"):
        EGMALoss()(torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 16, 16))
