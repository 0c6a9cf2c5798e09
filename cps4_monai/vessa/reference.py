"""The reference encoder that is trained from scratch: picture, template and class prompts to <SEG> embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cps4_monai.vessa.attention import attention_without_dropout, turned
from cps4_monai.vessa.parts import Picture, Templates
from cps4_monai.vessa.positions import FourierPositions


class SmallReference(nn.Module):
    """A transformer over tokens of the picture, of its templates, of the class prompts, and one ``<SEG>`` per class.

    A token of a template is that of its patch plus the classes in it; templates are told apart by nothing, so that
    their order does not matter. The hidden state at each ``<SEG>`` becomes the prompt of its class by two linear layers
    (as in LISA; nothing is copied).

    Args:
        image_dim: D, size of a patch token.
        text_dim: size of a prompt embedding.
        num_classes: C.
        width: of the transformer and of the answer.
        depth: its layers.
        heads: its attention heads, a divisor of the width.
        pool: patches along each axis that become one token.
        dropout: while training.
    """

    waits_for_device = False

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        num_classes: int,
        width: int = 256,
        depth: int = 3,
        heads: int = 8,
        pool: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "image_dim": image_dim,
            "text_dim": text_dim,
            "num_classes": num_classes,
            "width": width,
            "depth": depth,
            "heads": heads,
            "pool": pool,
            "dropout": dropout,
        }
        self.pool = pool
        self.image_in, self.text_in = nn.Linear(image_dim, width), nn.Linear(text_dim, width)
        self.classes = nn.Linear(num_classes, width, bias=False)
        self.positions = FourierPositions(width)
        self.kinds = nn.Parameter(torch.randn(4, width))  # of the picture, a template, a prompt, a <SEG>
        layer = attention_without_dropout(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", norm_first=True)
        )
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.answer = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, picture: Picture, templates: Templates, prompts: Tensor) -> tuple[Tensor, None]:
        """<SEG> embeddings (B, C, width); it writes no text. See :class:`cps4_monai.vessa.parts.ReferenceEncoder`."""
        batch, count = templates.tokens.shape[:2]
        of_picture = self._tokens(picture.tokens, self.image_in) + self.kinds[0]
        shown = self._tokens(templates.tokens.flatten(0, 1), self.image_in) + self.kinds[1]
        shown = shown + self._tokens(templates.cells.flatten(0, 1).to(shown.dtype), self.classes, placed=False)
        shown = shown.unflatten(0, (batch, count)).flatten(1, 2)
        text = self.text_in(prompts)
        asked = torch.cat((text + self.kinds[2], text + self.kinds[3])).expand(batch, -1, -1)
        sequence = torch.cat((of_picture, shown, asked), dim=1)
        absent = self._absent(of_picture, shown, asked, templates.there)
        hidden = self.layers(turned(sequence), src_key_padding_mask=absent)
        return self.answer(turned(hidden[-len(prompts) :])), None

    def _tokens(self, grid: Tensor, project: nn.Module, placed: bool = True) -> Tensor:
        """A grid (B, D, h, w) as pooled tokens (B, n, width), with their places."""
        size = (-(-grid.shape[2] // self.pool), -(-grid.shape[3] // self.pool))
        tokens = project(F.adaptive_avg_pool2d(grid.contiguous(), size).flatten(2).transpose(1, 2).contiguous())
        return tokens + self.positions.grid(*size).to(tokens.dtype) if placed else tokens

    @staticmethod
    def _absent(of_picture: Tensor, shown: Tensor, asked: Tensor, there: Tensor) -> Tensor:
        """(B, tokens) bool: those of templates that are not there."""
        parts = [torch.zeros_like(of_picture[..., 0]), torch.ones_like(shown[..., 0]), torch.zeros_like(asked[..., 0])]
        return torch.cat(parts, dim=1).bool() & ~there[:, None]
