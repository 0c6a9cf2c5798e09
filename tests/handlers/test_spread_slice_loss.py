"""Validation of objectives that compare slices: batches are spread over the volumes."""

from __future__ import annotations

import pytest
import torch
from ignite.exceptions import NotComputableError

from cps4_monai.handlers import SpreadSliceLoss


class Noted:
    """A loss that notes which slices came together; its value is the number of the first."""

    def __init__(self):
        self.batches = []

    def __call__(self, values, label):
        assert label.shape == (len(values), 1, 2, 2)
        self.batches.append(values[:, 0, 0, 0].tolist())
        return values[0, 0, 0, 0]


def volumes(*depths):
    numbers = torch.arange(float(sum(depths))).split(list(depths))
    return [n.view(1, -1, 1, 1).expand(-1, -1, 2, 2) for n in numbers], [torch.zeros(1, d, 2, 2) for d in depths]


def test_batches_take_slices_of_different_volumes_and_each_slice_once():
    loss = Noted()
    metric = SpreadSliceLoss(loss, batch_size=3)
    values, labels = volumes(2, 3, 2)
    metric.update((values[:2], labels[:2]))
    metric.update((values[2:], labels[2:]))
    assert metric.compute() == pytest.approx((0 * 3 + 1 * 2 + 2 * 2) / 7)
    assert loss.batches == [[0, 3, 6], [1, 4], [2, 5]]
    assert metric.compute() == pytest.approx(6 / 7), "asked again, it says the same"


def test_volumes_of_one_slice_are_compared_with_one_another():
    loss = Noted()
    metric = SpreadSliceLoss(loss, batch_size=8)
    metric.update(volumes(1, 1, 1))
    metric.compute()
    assert loss.batches == [[0, 1, 2]]
    metric.reset()
    with pytest.raises(NotComputableError, match="no slice"):
        metric.compute()
    with pytest.raises(ValueError, match="batch_size is 0"):
        SpreadSliceLoss(loss, 0)
