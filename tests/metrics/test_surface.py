from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.networks import one_hot

from cps4_monai.metrics.surface import surface_distances


def _cube(shape=(16, 16, 16), start=(4, 4, 4), size=4, code=1):
    volume = np.zeros(shape, np.uint8)
    volume[tuple(slice(s, s + size) for s in start)] = code
    return volume


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_hd95_of_two_shifted_cubes_is_the_shift_in_mm(axis):
    start = [4, 4, 4]
    start[axis] += 3
    spacing = (4.0, 0.5, 0.7)
    result = surface_distances(_cube(start=start), _cube(), spacing, 2)
    assert result.hd95_mm[1] == pytest.approx(3 * spacing[axis])
    assert 0 < result.assd_mm[1] < result.hd95_mm[1]


def test_average_distance_worked_out_by_hand():
    label, pred = np.zeros((1, 1, 9), np.uint8), np.zeros((1, 1, 9), np.uint8)
    label[0, 0, 2], pred[0, 0, 5] = 1, 1
    result = surface_distances(pred, label, (1.0, 1.0, 2.0), 2)
    assert result.assd_mm[1] == pytest.approx(6.0) and result.hd95_mm[1] == pytest.approx(6.0)


def test_values_are_monais_on_the_whole_volume():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 5, (3, 4, 3)).astype(np.uint8)
    label = blocks.repeat(4, 0).repeat(5, 1).repeat(6, 2)
    pred = np.roll(label, (1, 2), axis=(0, 2))
    spacing = [0.9, 0.4, 0.6]
    ours = surface_distances(pred, label, spacing, 5)
    one_hots = [one_hot(torch.from_numpy(v.astype(np.int64))[None, None], 5) for v in (pred, label)]
    hd95 = compute_hausdorff_distance(*one_hots, percentile=95, spacing=spacing)[0]
    assd = compute_average_surface_distance(*one_hots, symmetric=True, spacing=spacing)[0]
    np.testing.assert_allclose(ours.hd95_mm[1:], hd95, rtol=1e-6)
    np.testing.assert_allclose(ours.assd_mm[1:], assd, rtol=1e-6)


def test_perfect_prediction_has_no_distance():
    result = surface_distances(_cube(), _cube(), (1, 1, 1), 2)
    assert result.hd95_mm[1] == 0 and result.assd_mm[1] == 0


def test_missed_false_absent_and_unannotated_classes_are_not_measured():
    label, pred = _cube(code=1), _cube(code=2)
    label[0, 0, 0] = pred[0, 0, 0] = 3
    label[0, 0, 2] = pred[0, 0, 2] = 4
    result = surface_distances(pred, label, (1, 1, 1), 6, unannotated=[4])
    assert np.isfinite(result.hd95_mm).nonzero()[0].tolist() == [3]


def test_one_slice_is_measured_in_its_plane():
    label, pred = np.zeros((1, 20, 20), np.uint8), np.zeros((1, 20, 20), np.uint8)
    label[0, 5:15, 5:15], pred[0, 5:15, 8:18] = 1, 1
    result = surface_distances(pred, label, (4.0, 1.0, 0.5), 2)
    assert result.hd95_mm[1] == pytest.approx(1.5)


def test_axis_order_does_not_matter():
    pred, label = _cube(start=(2, 5, 6)), _cube()
    first = surface_distances(pred, label, (3.0, 0.5, 0.7), 2)
    second = surface_distances(pred.transpose(2, 0, 1), label.transpose(2, 0, 1), (0.7, 3.0, 0.5), 2)
    np.testing.assert_allclose(first.hd95_mm[1], second.hd95_mm[1])
    np.testing.assert_allclose(first.assd_mm[1], second.assd_mm[1])


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_wrong_spacing_is_named(spacing):
    with pytest.raises(ValueError, match="expected 3 positive numbers"):
        surface_distances(_cube(), _cube(), spacing, 2)


def test_other_shapes_are_an_error():
    with pytest.raises(ValueError, match="one grid"):
        surface_distances(_cube(), _cube()[1:], (1, 1, 1), 2)
