from __future__ import annotations

import pytest
import torch

from cps4_monai.metrics.baseline import at_depth, mean_label_map


def test_majority_wins_pixel_by_pixel():
    labels = [torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, 1, 1]]]), torch.tensor([[[3, 1, 2]]])]
    assert mean_label_map(labels, 4).tolist() == [[[0, 1, 2]]]


def test_ties_go_to_the_lowest_code():
    assert mean_label_map([torch.tensor([[[3, 2]]]), torch.tensor([[[0, 1]]])], 4).tolist() == [[[0, 1]]]


def test_subjects_with_other_numbers_of_slices_meet_at_the_same_relative_position():
    thin = torch.arange(1, 5).view(4, 1, 1)
    thick = torch.tensor([1, 3]).view(2, 1, 1)
    assert mean_label_map([thick], 5, num_slices=4).flatten().tolist() == [1, 1, 3, 3]
    assert at_depth(thin, 2).flatten().tolist() == [2, 4]
    assert at_depth(thin, 4).equal(thin)
    assert mean_label_map([thin, thick, thin], 5).shape == (4, 1, 1)


def test_one_subject_is_its_own_mean():
    label = torch.randint(0, 20, (5, 6, 7), dtype=torch.uint8)
    result = mean_label_map([label], 20)
    assert result.dtype == torch.uint8 and result.equal(label)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "at least one labeled subject"),
        ([torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long()], "one H, W"),
        ([torch.full((1, 2, 2), 9)], "outside 0 to 4"),
    ],
)
def test_bad_input_is_named(labels, words):
    with pytest.raises(ValueError, match=words):
        mean_label_map(labels, 5)
