"""One encoder with three decoders that differ in how they double the resolution: the network of MC-Net."""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import Tensor, nn

from cps4_monai.networks.composite import Composite, check_in_pieces, reinitialised
from cps4_monai.networks.resunet import ResUNet


class MutualDecoders(Composite):
    """A ResUNet, which upsamples by transposed convolutions, and two more decoders with heads of their own.

    The second decoder upsamples bilinearly, the third takes the nearest value; both map channels by a 1 x 1
    convolution. It stands before the upsampling: both are linear and commute, and it costs a quarter there.

    Args:
        backbone: the network that is deployed, with its own decoder.
        seed: of the initial weights of the second decoder, see :func:`reinitialised`; the third has the next.

    Raises:
        TypeError: a backbone that is not in pieces.
    """

    backbone: ResUNet

    def __init__(self, backbone: ResUNet, seed: int = 1) -> None:
        check_in_pieces(backbone)
        super().__init__(backbone)
        modes = ("bilinear", "nearest")
        others = [_OtherDecoder(backbone, mode) for mode in modes]
        self.others = nn.ModuleList(reinitialised(other, seed + place) for place, other in enumerate(others))

    def forward(self, image: Tensor, all_decoders: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, C, H, W) of the backbone, or with ``all_decoders`` those of each of the three decoders."""
        if not all_decoders:
            return self.backbone(image)
        levels, size = self.backbone.encode(image), list(image.shape[-2:])
        first = self.backbone.logits(self.backbone.decode(levels), size)
        return (first, *(other(levels, size) for other in self.others))


class _OtherDecoder(nn.Module):
    """The decoder and the head of a ResUNet, with another upsampling."""

    def __init__(self, network: ResUNet, mode: str) -> None:
        super().__init__()
        self.decoder, self.head = copy.deepcopy(network.decoder), copy.deepcopy(network.head)
        for block in self.decoder:
            transposed: nn.ConvTranspose2d = block.up.conv  # type: ignore[union-attr, assignment]
            narrowed = nn.Conv2d(transposed.in_channels, transposed.out_channels, 1, bias=False)
            block.up = nn.Sequential(OrderedDict(conv=narrowed, upsample=nn.Upsample(scale_factor=2, mode=mode)))

    def forward(self, levels: list[Tensor], size: list[int]) -> Tensor:
        """Logits (B, C, H, W) of the encoder's levels."""
        features = levels[-1]
        for block, skip in zip(self.decoder, levels[-2::-1], strict=True):
            features = block(features, skip)
        return self.head(features)[..., : size[0], : size[1]]
