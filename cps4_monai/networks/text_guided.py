"""A segmentation network with a decoder beside it that segments by class prompts, from what a frozen encoder sees."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cps4_monai.networks.composite import Composite

UPSAMPLINGS = 2  # each doubles the grid


class Said(NamedTuple):
    """What the frozen image side of stage 1 says of slices.

    Attributes:
        tokens: projected patch tokens (B, E, h, w), of any length.
        attention_logits: (B, C, h, w).
        prompts: prompt embeddings (C, E).
    """

    tokens: Tensor
    attention_logits: Tensor
    prompts: Tensor


class TextMasks(NamedTuple):
    """What the decoder makes of it.

    Attributes:
        logits: (B, C, 4 h, 4 w) float32.
        features: (B, D, 4 h, 4 w) float32, of length one along D.
        prompts: (C, D) float32, the prompts in the space of the features, of length one.
    """

    logits: Tensor
    features: Tensor
    prompts: Tensor


class TextGuidedDecoder(nn.Module):
    """Attention logits, upsampled four times with the help of the patch tokens.

    Convolutions of tokens and logits give features; their cosine with the prompts, times a learned scale, corrects the
    bilinearly upsampled logits. All classes are asked for at once, by their prompts, so no slice needs a text.

    Args:
        embedding_dim: E, of tokens and prompts.
        num_classes: C.
        width: D, channels, a multiple of 8.
        scale_init: start of the scale of the cosines.

    Raises:
        ValueError: a width that is no positive multiple of 8.
    """

    def __init__(self, embedding_dim: int, num_classes: int, width: int = 64, scale_init: float = 10.0) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width of the text-guided decoder is {width}; expected a multiple of 8, as 64")
        self.reduce = nn.Sequential(nn.Conv2d(embedding_dim, width, 1), nn.GroupNorm(8, width))
        self.norm_logits = nn.GroupNorm(1, num_classes)
        self.blocks = nn.ModuleList(
            _block(width + num_classes if index == 0 else width, width) for index in range(1 + UPSAMPLINGS)
        )
        self.project_prompts = nn.Linear(embedding_dim, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(scale_init).log())

    def forward(self, said: Said) -> TextMasks:
        """Masks of slices, as logits, and the features behind them."""
        tokens = self.reduce(F.normalize(said.tokens.float(), dim=1))
        features = self.blocks[0](torch.cat((tokens, self.norm_logits(said.attention_logits).to(tokens.dtype)), dim=1))
        for block in self.blocks[1:]:
            features = block(F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False))
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(features.float(), dim=1)
            prompts = F.normalize(self.project_prompts(F.normalize(said.prompts.float(), dim=1)), dim=1)
            cosine = torch.einsum("bdhw,cd->bchw", features, prompts)
            coarse = F.interpolate(
                said.attention_logits.float(), size=features.shape[2:], mode="bilinear", align_corners=False
            )
            return TextMasks(coarse + self.log_scale.exp() * cosine, features, prompts)


class TextGuided(Composite):
    """The network to deploy and the text-guided decoder: one optimiser, one checkpoint entry.

    Args:
        backbone: the network.
        vision: the frozen image side of stage 1, of which only sizes are read.
        width: channels of the decoder.
    """

    def __init__(self, backbone: nn.Module, vision: Any, width: int = 64) -> None:
        super().__init__(backbone)
        num_classes, embedding_dim = vision.embeddings.shape
        decoder = TextGuidedDecoder(int(embedding_dim), int(num_classes), width)
        self.text_decoder = decoder.to(next(backbone.parameters()).device)

    def forward(self, image: Tensor | None = None, said: Said | None = None) -> Tensor | TextMasks:
        """Logits (B, C, H, W) of pictures, or the decoder's masks of what the frozen image side says of them."""
        return self.backbone(image) if said is None else self.text_decoder(said)


def _block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.GELU())
