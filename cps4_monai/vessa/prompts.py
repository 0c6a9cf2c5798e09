"""Embeddings of the class prompts: made by a text encoder in stage 1, stored in stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class EncodedPrompts(nn.Module):
    """Class prompts through a text encoder, each scaled to mean 0 and variance 1.

    Args:
        text_encoder: :class:`cps4_monai.text.encoder.TextEncoder`, or what has its ``tokenize`` and ``embed_dim``.
        prompts: one text per class, by code; tokenised once.
        centred: take away what they have in common before they are scaled; the prompts differ in one name.

    Attributes:
        embed_dim: size of an embedding.
        pretrained: whether the encoder starts from trained weights.
    """

    input_ids: Tensor
    attention_mask: Tensor

    def __init__(self, text_encoder: Any, prompts: Sequence[str], centred: bool = True) -> None:
        super().__init__()
        self.centred = centred
        self.text_encoder = text_encoder
        self.embed_dim: int = text_encoder.embed_dim
        self.pretrained = bool(text_encoder.pretrained)
        for key, value in text_encoder.tokenize(prompts).items():
            self.register_buffer(key, value, persistent=False)

    @property
    def blocks(self) -> nn.Module:
        """Those of the text encoder."""
        return self.text_encoder.blocks

    def forward(self) -> Tensor:
        """(C, D_text) float32."""
        embeddings = self.text_encoder(self.input_ids, self.attention_mask).float()
        common = embeddings.mean(0) if self.centred else 0.0
        return F.layer_norm(embeddings - common, (self.embed_dim,))


class StoredPrompts(nn.Module):
    """Embeddings as stage 1 left them.

    Args:
        embeddings: (C, D_text).

    Attributes:
        embed_dim: size of an embedding.
        pretrained: False; nothing in it trains.
    """

    embeddings: Tensor

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings.detach().clone().float())
        self.embed_dim = int(embeddings.shape[1])
        self.pretrained = False

    def forward(self) -> Tensor:
        """(C, D_text) float32."""
        return self.embeddings
