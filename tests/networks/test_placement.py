"""Memory format follows the narrowest level."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.networks import ResUNet, place


@pytest.mark.parametrize(("features", "channels_last"), [((16, 32), True), ((8, 16), False)])
def test_narrow_networks_keep_the_usual_memory_format(features: tuple[int, int], channels_last: bool) -> None:
    network = place(ResUNet(out_channels=20, features=features), "cpu")
    weight = next(p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_placing_does_not_change_what_a_network_computes() -> None:
    network = ResUNet(features=(16, 32)).eval()
    image = torch.rand(1, 1, 16, 16)
    before = network(image)
    torch.testing.assert_close(place(network)(image), before)
