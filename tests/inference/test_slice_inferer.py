"""Slice batches: order, sizes, batch size without influence, bad input."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.inference.slice_inferer import SliceBatchInferer
from cps4_monai.networks import ResUNet


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_each_slice_gets_its_own_logits_whatever_the_batch_size(batch_size):
    volume = torch.rand(1, 1, 5, 6, 4)
    logits = SliceBatchInferer(batch_size)(volume, lambda x: torch.cat((x, -x), dim=1))
    assert logits.shape == (1, 2, 5, 6, 4)
    torch.testing.assert_close(logits[:, :1], volume)
    torch.testing.assert_close(logits[:, 1:], -volume)


def test_network_sees_batches_of_slices():
    sizes = []
    SliceBatchInferer(2)(torch.rand(1, 1, 5, 6, 4), lambda x: sizes.append(tuple(x.shape)) or x)
    assert sizes == [(2, 1, 6, 4), (2, 1, 6, 4), (1, 1, 6, 4)]


def test_output_of_another_size_and_type_is_fine():
    logits = SliceBatchInferer(2)(torch.rand(1, 1, 3, 8, 8), lambda x: x[..., ::4, ::2].repeat(1, 7, 1, 1).half())
    assert logits.shape == (1, 7, 3, 2, 4) and logits.dtype == torch.float16


def test_several_volumes_stay_apart():
    volumes = torch.arange(2.0)[:, None, None, None, None].expand(2, 1, 3, 2, 2)
    logits = SliceBatchInferer(4)(volumes, lambda x: x)
    assert logits[0].unique().tolist() == [0] and logits[1].unique().tolist() == [1]


def test_agrees_with_the_network_slice_by_slice():
    network = ResUNet(1, 3, features=(4, 8)).eval()
    volume = torch.rand(1, 1, 3, 9, 7)
    with torch.no_grad():
        logits = SliceBatchInferer(2)(volume, network)
        for index in range(3):
            torch.testing.assert_close(logits[:, :, index], network(volume[:, :, index]))


def test_arguments_reach_the_network():
    assert SliceBatchInferer()(torch.ones(1, 1, 1, 2, 2), lambda x, f, g: x * f + g, 3, g=4).unique().item() == 7


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4, 4\)"):
        SliceBatchInferer()(torch.zeros(1, 3, 4, 4), lambda x: x)
    with pytest.raises(ValueError, match="no slice"):
        SliceBatchInferer()(torch.zeros(1, 1, 0, 4, 4), lambda x: x)
    with pytest.raises(ValueError, match="batch_size is 0"):
        SliceBatchInferer(0)
