"""The residual block of the U-Net, layer by layer that of MONAI's ``UnetResBlock``."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

SLOPE = 0.01


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm and leaky ReLU, and a way round them.

    Outputs, initial weights (seed for seed) and names in the state dict are those of MONAI's
    ``UnetResBlock(2, in_channels, out_channels, 3, stride, norm_name="batch")``. It stands here in plain torch because
    importing MONAI takes several seconds of processor time, more than all else that ``cps4 segment`` does to a scan.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = convolution(nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False))
        self.conv2 = convolution(nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False))
        self.lrelu = nn.LeakyReLU(SLOPE, inplace=True)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.norm2 = nn.BatchNorm2d(out_channels)
        other = in_channels != out_channels or stride != 1
        way_round = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if other else None
        self.conv3 = nn.Identity() if way_round is None else convolution(way_round)
        self.norm3 = nn.Identity() if way_round is None else nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        out = self.lrelu(self.norm1(self.conv1(features)))
        out = self.norm2(self.conv2(out))
        out += self.norm3(self.conv3(features))
        return self.lrelu(out)


def convolution(layer: nn.Module) -> nn.Sequential:
    """The layer under the name ``conv``, as MONAI's ``Convolution`` has it, so that weights fit either."""
    return nn.Sequential(OrderedDict(conv=layer))
