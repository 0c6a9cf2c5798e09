"""The block without MONAI's import is MONAI's block."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from monai.networks.blocks.dynunet_block import UnetResBlock

from cps4_monai.networks.residual_block import ResidualBlock


def _pair(before: int, after: int, stride: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(7)
    theirs = UnetResBlock(2, before, after, kernel_size=3, stride=stride, norm_name="batch")
    torch.manual_seed(7)
    return theirs, ResidualBlock(before, after, stride)


@pytest.mark.parametrize(("before", "after", "stride"), [(1, 4, 1), (4, 4, 1), (4, 8, 2), (4, 4, 2)])
def test_names_initial_weights_outputs_and_gradients_are_those_of_monai(before, after, stride):
    theirs, ours = _pair(before, after, stride)
    expected, state = theirs.state_dict(), ours.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in expected)
    image = torch.rand(2, before, 13, 10)
    made, wanted = ours(image), theirs(image)
    assert torch.equal(made, wanted)
    made.square().mean().backward()
    wanted.square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(ours.eval()(image), theirs.eval()(image))  # the running statistics are the same, too


def test_the_networks_are_built_without_importing_monai():
    code = "import sys; from cps4_monai.networks import ResUNet; ResUNet(features=(4, 8))"
    assert (
        subprocess.run([sys.executable, "-c", f"{code}; sys.exit('monai' in sys.modules)"], check=False).returncode == 0
    )
