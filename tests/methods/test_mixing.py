"""Rectangles, exchange of patches and largest components: by hand, and against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.measure import label as components

from cps4_monai.methods.mixing import (
    certain_for_uncertain,
    exchange_patches,
    largest_components,
    mix,
    random_rectangles,
    rectangles,
)

CPU = torch.device("cpu")


def test_a_rectangle_has_its_sides_and_lies_within_the_picture():
    masks = rectangles(50, (12, 8), (8, 5), CPU)
    assert masks.shape == (50, 1, 12, 8) and (masks.sum((1, 2, 3)) == 40).all()
    rows = masks.any(3).float().argmax(2)[:, 0]
    assert set(rows.tolist()) == {0, 1, 2, 3, 4}  # each of the places there are
    assert rectangles(1, (12, 8), (12, 8), CPU).all() and not rectangles(1, (12, 8), (0, 0), CPU).any()


def test_drawn_rectangles_keep_to_the_range_of_areas():
    share = random_rectangles(400, (100, 100), CPU, area=(0.02, 0.4)).float().mean((1, 2, 3))
    assert 0.01 < share.min() < 0.05 and 0.3 < share.max() <= 0.4


def test_drawn_rectangles_keep_to_the_range_of_height_by_width():
    masks = random_rectangles(400, (200, 200), CPU, area=(0.05, 0.1))
    height, width = (masks.any(axis).sum((1, 2)).float() for axis in (3, 2))
    ratio = height / width
    assert 0.28 < ratio.min() < 0.5 and 2.8 < ratio.max() < 3.5


def test_mixing_takes_the_second_where_the_mask_is_true():
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    assert mix(torch.tensor([[[[1, 2]]]]), torch.tensor([[[[3, 4]]]]), mask).tolist() == [[[[3, 2]]]]


def test_the_most_uncertain_patch_becomes_a_copy_of_the_most_certain():
    uncertainty = torch.tensor([[0.1, 0.9], [0.5, 0.3]]).view(1, 1, 2, 2)
    uncertainty = uncertainty.repeat_interleave(2, 2).repeat_interleave(2, 3)  # four patches of 2 x 2
    picture = torch.arange(16).view(1, 1, 4, 4)
    places = certain_for_uncertain(uncertainty, grid=2, exchanged=1)
    assert places.tolist() == [[0, 0, 2, 3]]
    expected = picture.clone()
    expected[..., :2, 2:] = picture[..., :2, :2]
    assert torch.equal(exchange_patches(picture, places, 2), expected)
    identity = certain_for_uncertain(uncertainty, grid=2, exchanged=0)
    assert torch.equal(exchange_patches(picture, identity, 2), picture)


@pytest.mark.parametrize(("grid", "exchanged"), [(3, 1), (2, 3)])
def test_a_grid_that_does_not_fit_is_refused(grid, exchanged):
    with pytest.raises(ValueError, match="multiples of the grid"):
        certain_for_uncertain(torch.rand(1, 1, 4, 4), grid, exchanged)


def test_largest_components_are_those_of_scikit_image():
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 3, (3, 40, 30))
    codes[2] = 0
    codes[2, 2:38:2, 2:28] = 1  # a comb, joined at the left and right in turn: one long winding component
    for row in range(3, 37, 2):
        codes[2, row, 2 if row % 4 == 3 else 27] = 1
    got = largest_components(torch.from_numpy(codes)[:, None], 3, rounds=16)[:, 0].numpy()
    for ours, theirs in zip(got, codes, strict=True):
        for code in (1, 2):
            labels = components(theirs == code, connectivity=2)
            sizes = np.bincount(labels.ravel())[1:]
            assert (ours == code).sum() == (sizes.max() if sizes.size else 0)
            assert len(np.unique(labels[ours == code])) <= 1
