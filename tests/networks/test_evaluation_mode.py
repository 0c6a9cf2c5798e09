"""A network goes back to the mode that it was in."""

from __future__ import annotations

import pytest
from torch import nn

from cps4_monai.networks.evaluation_mode import evaluation_mode


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_before_comes_back_also_after_an_error(training: bool) -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()).train(training)
    with evaluation_mode(network) as evaluated:
        assert evaluated is network and not any(module.training for module in network.modules())
    assert network.training == training
    with pytest.raises(RuntimeError, match="while predicting"), evaluation_mode(network):
        raise RuntimeError("while predicting")
    assert all(module.training == training for module in network.modules())
