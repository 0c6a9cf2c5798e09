"""Words and patches that attend to each other: values by hand, padding in both directions (card 8)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cps4_monai.losses.cross_attention import cross_attention_alignment


def everything(slices, count):
    return torch.ones(slices, count, dtype=torch.bool)


@pytest.mark.parametrize("count", [3, 17])
def test_equal_words_and_patches_give_ln_n_in_both_directions(count):
    words = F.normalize(torch.ones(count, 4), dim=1)
    patches = words.T[None].expand(2, -1, -1)
    loss = cross_attention_alignment(words, patches, everything(2, count), everything(2, count))
    assert loss.item() == pytest.approx(math.log(count), abs=1e-5)  # ln 17 = 2.8332


def test_the_two_directions_count_half_each():
    words, patches = F.normalize(torch.ones(2, 4), dim=1), F.normalize(torch.ones(1, 4, 8), dim=1)
    loss = cross_attention_alignment(words, patches, everything(1, 2), everything(1, 8))
    assert loss.item() == pytest.approx((math.log(2) + math.log(8)) / 2, abs=1e-5)


def test_orthonormal_words_each_equal_to_one_patch_are_told_apart():
    words = torch.eye(5)
    assert cross_attention_alignment(words, words[None], everything(1, 5), everything(1, 5)).item() < 0.01


def test_absent_words_and_cells_that_do_not_count_are_left_out_in_both_directions():
    words, patches = F.normalize(torch.randn(4, 6), dim=1), F.normalize(torch.randn(2, 6, 9), dim=1)
    words.requires_grad_(), patches.requires_grad_()
    captions, cells = everything(2, 4), everything(2, 9)
    captions[:, 1], cells[:, 5:] = False, False
    loss = cross_attention_alignment(words, patches, captions, cells)
    kept = words[[0, 2, 3]], patches[:, :, :5], everything(2, 3), everything(2, 5)
    torch.testing.assert_close(loss, cross_attention_alignment(*kept))
    loss.backward()
    assert not words.grad[1].any() and not patches.grad[:, :, 5:].any() and patches.grad[:, :, :5].any()


def test_slices_without_a_caption_count_nothing():
    words, patches = F.normalize(torch.randn(3, 6), dim=1), F.normalize(torch.randn(2, 6, 4), dim=1)
    captions, cells = everything(2, 3), everything(2, 4)
    captions[1], cells[1] = False, False
    loss = cross_attention_alignment(words, patches, captions, cells)
    torch.testing.assert_close(loss, cross_attention_alignment(words, patches[:1], captions[:1], cells[:1]))


def test_a_lower_temperature_tells_more_apart():
    words = F.normalize(torch.eye(5) + 0.3, dim=1)
    given = words, words.T[None], everything(1, 5), everything(1, 5)
    assert cross_attention_alignment(*given, temperature=0.05) < cross_attention_alignment(*given, temperature=0.5)


def test_the_formula_written_out_for_one_slice():
    """Word by word and patch by patch, as the card has it."""
    words, patches = F.normalize(torch.randn(3, 5), dim=1), F.normalize(torch.randn(4, 5), dim=1)

    def one_way(askers, asked):
        seen = [F.normalize(((a @ asked.T) / 0.1).softmax(0) @ asked, dim=0) for a in askers]
        logits = torch.stack([torch.stack([a @ c for c in seen]) for a in askers]) / 0.1
        own = torch.arange(len(askers))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    loss = cross_attention_alignment(words, patches.T[None], everything(1, 3), everything(1, 4))
    torch.testing.assert_close(loss, (one_way(words, patches) + one_way(patches, words)) / 2)
