"""The filter follows the picture's edges, and keeps what it must."""

from __future__ import annotations

import torch

from cps4_monai.methods.pixel_affinity import pixel_affinity


def test_a_mask_that_leaks_over_an_edge_is_drawn_back_to_it():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1.0
    mask = torch.zeros(1, 8, 8)
    mask[..., :5] = 1.0  # one column too far
    probabilities = torch.stack((mask, 1 - mask), dim=1)
    refined = pixel_affinity(probabilities, image)
    assert refined[0, 0, 0, 4] < 0.2 < probabilities[0, 0, 0, 4]
    assert (refined.argmax(1) == (image[:, 0] > 0.5)).all()


def test_probabilities_stay_probabilities_and_no_gradient_leaves():
    image, logits = torch.rand(2, 1, 16, 12), torch.randn(2, 5, 8, 6, requires_grad=True)
    refined = pixel_affinity(logits.softmax(1), image, rounds=3, dilations=(1, 2))
    assert refined.shape == (2, 5, 8, 6) and not refined.requires_grad
    torch.testing.assert_close(refined.sum(1), torch.ones(2, 8, 6))
    assert refined.min() >= 0


def test_no_rounds_change_nothing_and_one_round_of_a_flat_picture_is_the_mean_of_the_neighbours():
    probabilities = torch.rand(1, 2, 5, 5).softmax(1)
    flat = torch.full((1, 1, 5, 5), 0.3)
    assert torch.equal(pixel_affinity(probabilities, flat, rounds=0), probabilities)
    once = pixel_affinity(probabilities, flat, rounds=1, dilations=(1,))
    around = (probabilities[..., 1:4, 1:4].sum((2, 3)) - probabilities[..., 2, 2]) / 8
    torch.testing.assert_close(once[..., 2, 2], around)
