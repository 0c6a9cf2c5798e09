"""The 2-D residual U-Net that stage 2 trains and the bundle ships."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cps4_monai.networks.residual_block import ResidualBlock, convolution


class _Decoder(nn.Module):
    """Doubles the resolution, joins the encoder's features and fuses both in a residual block."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = convolution(nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False))
        self.fuse = ResidualBlock(2 * out_channels, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        return self.fuse(torch.cat((self.up(coarse), skip), dim=1))


class ResUNet(nn.Module):
    """Residual U-Net on single slices (paper, section 2.2; the blocks compute what those of MONAI's ``DynUNet`` do).

    ``DynUNet(res_block=True)`` itself is not used for three reasons: its decoder is not residual, its state dict names
    every block twice (a half-precision copy for release would weigh double), and it accepts only sizes that are
    multiples of 16. Here any height and width goes in: the image is padded at its bottom and right, the logits cropped.

    >>> network = ResUNet(out_channels=20, features=(8, 16, 32)).eval()
    >>> network(torch.rand(2, 1, 50, 30)).shape
    torch.Size([2, 20, 50, 30])

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of each level, from the full resolution down; each further level halves the resolution.
            This class's default has 4.6 million parameters, that of ``train.json`` 7.5; 32 to 512, the paper's, 8.1
            (the paper counts 8.3).

    Attributes:
        features: channels of each level, those of what :meth:`encode` gives.

    Raises:
        ValueError: fewer than two levels, or a number of channels below 1.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 20, features: Sequence[int] = (24, 48, 96, 192, 384)
    ) -> None:
        super().__init__()
        widths = [int(width) for width in features]
        if len(widths) < 2 or min([in_channels, out_channels, *widths]) < 1:
            raise ValueError(
                f"in_channels={in_channels}, out_channels={out_channels}, features={widths}: expected channels of at "
                "least 1 and two or more levels in 'features'"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.features = tuple(widths)
        self.divisor = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList(
            ResidualBlock(before, after, stride=1 if level == 0 else 2)
            for level, (before, after) in enumerate(zip([in_channels, *widths[:-1]], widths, strict=True))
        )
        self.decoder = nn.ModuleList(
            _Decoder(below, here) for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], out_channels, kernel_size=1)

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, in plain values: how a plan keeps this network."""
        return {"in_channels": self.in_channels, "out_channels": self.out_channels, "features": list(self.features)}

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of every level, of an image (B, in_channels, H, W) padded to a multiple of ``divisor``.

        Returns:
            One (B, features[i], H' / 2^i, W' / 2^i) for each level i, from the full resolution down.
        """
        height, width = image.shape[-2], image.shape[-1]
        features = F.pad(image, (0, -width % self.divisor, 0, -height % self.divisor))
        levels: list[Tensor] = []
        for block in self.encoder:
            features = block(features)
            levels.append(features)
        return levels

    def decode(self, levels: list[Tensor]) -> Tensor:
        """The last features (B, features[0], H', W') of the levels that :meth:`encode` gave; ``head`` reads them."""
        features = levels[-1]
        for level, block in enumerate(self.decoder):
            features = block(features, levels[-2 - level])
        return features

    def logits(self, features: Tensor, size: list[int]) -> Tensor:
        """Logits (B, out_channels, H, W) of the last features; `size` is that of the image, (H, W)."""
        return self.head(features)[..., : size[0], : size[1]]

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of slices: ``logits(decode(encode(image)))``.

        Args:
            image: (B, in_channels, H, W).

        Returns:
            (B, out_channels, H, W), before softmax.
        """
        return self.logits(self.decode(self.encode(image)), [image.shape[-2], image.shape[-1]])
