"""The way back from the network's scores to labels on the scan's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.resampling import AxisMap
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.scan_labels import labels_on_scan, only_neighbours, renamed_scores, scores_of

GRID = SagittalGrid.from_affine((2, 10, 12), np.diag([4.0, -1.0, -1.0, 1.0]))


def test_outside_the_network_grid_is_background_and_unannotated_classes_never_win():
    logits = torch.zeros(2, 3, 8, 8)
    logits[:, 1], logits[:, 2] = 5, 1
    scores = scores_of(logits, unannotated=(1,))
    out = labels_on_scan(scores, scores.labels, GRID, InPlane((8, 8), 1.0))
    assert out.shape == (2, 12, 10) and (out[:, 2:-2, 1:-1] == 2).all() and out.sum() == 2 * 2 * 64


def test_scores_of_other_grids_are_refused():
    for shape in ((2, 3, 9, 8), (1, 3, 8, 8)):
        scores = scores_of(torch.zeros(shape))
        with pytest.raises(ValueError, match="settings of the forward pass"):
            labels_on_scan(scores, scores.labels, GRID, InPlane((8, 8), 1.0))


def test_renamed_scores_win_where_labels_were_changed():
    logits = torch.randn(6, 12, 10)
    before = logits.argmax(dim=0).numpy().astype(np.uint8)
    after = before.copy()
    after[before == 3] = 4
    after[2:5, 2:5] = 0
    after[6, 6] = 5
    np.testing.assert_array_equal(renamed_scores(logits, before, after).argmax(dim=0).numpy(), after)
    assert renamed_scores(logits, before, before) is logits


def test_background_beside_a_renamed_structure_keeps_its_border_in_place():
    logits = torch.zeros(4, 1, 8)
    logits[2, 0] = torch.tensor([3.0, 2, 1, -1, -2, -3, -4, -5])  # crosses background between columns 2 and 3
    logits[[1, 3]] = -9
    before = np.array([[2, 2, 2, 0, 0, 0, 0, 0]], np.uint8)
    renamed = renamed_scores(logits, before, np.where(before == 2, 3, before))
    torch.testing.assert_close(renamed[3, 0, :5], logits[2, 0, :5])
    torch.testing.assert_close(renamed[2, 0, :5], torch.full((5,), -9.0))


def test_a_third_class_between_two_gives_way_to_the_nearest():
    coarse = np.array([[2, 2, 4, 4]], np.uint8)
    width, height = AxisMap(4, 8, -0.25, 0.5), AxisMap(1, 1, 0.0, 1.0)
    labels = np.array([[2, 2, 2, 3, 3, 4, 4, 4]], np.uint8)
    assert only_neighbours(labels, coarse, height, width).tolist() == [[2, 2, 2, 2, 4, 4, 4, 4]]
