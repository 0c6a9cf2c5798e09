"""Masked autoencoding: the ViT of stage 1 learns from all slices, labeled or not, before it sees a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.atomic_file import write_atomically
from cps4_monai.vision.encoder import VisionEncoder
from cps4_monai.vision.encoder_weights import GRID, HEADS, heads_of
from cps4_monai.vision.timm_import import Block, VisionTransformer


class MaskedAutoencoder(nn.Module):
    """Most patches of a slice are hidden, a small decoder draws them from the others.

    Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022. The encoder sees only the visible
    patches, which makes a step cheaper than one of stage 1; the loss is the squared error of the hidden patches, each
    scaled to mean 0 and variance 1. Which patches are hidden is drawn from torch's global generator.

    Args:
        image_encoder: the ViT to pretrain, from scratch or not; plain ViTs of timm (``VisionTransformer``).
        mask_ratio: share of the patches that are hidden, in (0, 1).
        decoder_dim: width of the decoder.
        decoder_depth: its blocks.
        decoder_heads: its attention heads, a divisor of its width.

    Raises:
        ValueError: another kind of model, a share or sizes out of range.
    """

    def __init__(
        self,
        image_encoder: VisionEncoder,
        mask_ratio: float = 0.75,
        decoder_dim: int = 64,
        decoder_depth: int = 1,
        decoder_heads: int = 2,
    ) -> None:
        super().__init__()
        if not isinstance(image_encoder.model, VisionTransformer) or image_encoder.model.pos_embed is None:
            raise ValueError(
                f"the image encoder is a {type(image_encoder.model).__name__}; masked autoencoding needs a plain ViT "
                "of timm with position embeddings, such as 'vit_base_patch16_224'"
            )
        if image_encoder.stem != "patch":
            raise ValueError(
                f"the image encoder's stem is {image_encoder.stem!r}, whose tokens see parts of hidden patches; masked "
                "autoencoding needs stem='patch'"
            )
        patches = image_encoder.grid_size[0] * image_encoder.grid_size[1]
        self.visible = round(patches * (1 - mask_ratio))
        if not 0 < mask_ratio < 1 or not 0 < self.visible < patches:
            raise ValueError(f"mask_ratio is {mask_ratio} of {patches} patches; expected a share that hides some only")
        if min(decoder_dim, decoder_depth, decoder_heads) < 1 or decoder_dim % decoder_heads:
            raise ValueError(
                f"decoder_dim, decoder_depth, decoder_heads are {decoder_dim}, {decoder_depth}, {decoder_heads}; "
                "expected 1 or more of each, the width a multiple of the heads"
            )
        self.image_encoder = image_encoder
        height, width = image_encoder.image_size
        self.patch_size = (height // image_encoder.grid_size[0], width // image_encoder.grid_size[1])
        self.to_decoder = nn.Linear(image_encoder.embed_dim, decoder_dim)
        self.hidden_token = nn.Parameter(torch.zeros(decoder_dim))
        self.position = nn.Parameter(torch.empty(patches, decoder_dim))
        nn.init.trunc_normal_(self.position, std=0.02)
        nn.init.normal_(self.hidden_token, std=0.02)
        self.decoder = nn.Sequential(
            *(Block(decoder_dim, decoder_heads) for _ in range(decoder_depth)),
            nn.LayerNorm(decoder_dim),
            nn.Linear(decoder_dim, self.patch_size[0] * self.patch_size[1]),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Loss of each slice, (B,), of slices (B, 1, H, W) in [0, 1]."""
        patches = self.image_encoder.grid_size[0] * self.image_encoder.grid_size[1]
        order = torch.rand(len(image), patches, device=image.device).argsort(dim=1)
        drawn = self._decode(self._encode(image, order[:, : self.visible]), order)
        with torch.autocast(image.device.type, enabled=False):
            error = (drawn.float() - self._targets(image)).square().mean(2)  # (B, N)
            return error.gather(1, order[:, self.visible :]).mean(1)

    def _encode(self, image: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Tokens (B, V, D) of the patches shown (B, V), which see one another only."""
        model: Any = self.image_encoder.model
        self.image_encoder.choose_attention(image.device)
        tokens = model._pos_embed(model.patch_embed((image - self.image_encoder.mean) / self.image_encoder.std))
        prefix, tokens = tokens[:, : model.num_prefix_tokens], tokens[:, model.num_prefix_tokens :]
        tokens = torch.cat([prefix, _take(tokens, shown)], dim=1)
        tokens = model.norm(model.blocks(model.norm_pre(tokens)))[:, model.num_prefix_tokens :]
        return model.fc_norm(tokens)

    def _decode(self, tokens: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """Pixels (B, N, patch) of all patches, from tokens (B, V, D) of the first V in the drawn order (B, N)."""
        shown = self.to_decoder(tokens)
        hidden = self.hidden_token.to(shown.dtype).expand(*order[:, self.visible :].shape, -1)
        in_place = _take(torch.cat([shown, hidden], dim=1), order.argsort(dim=1))
        return self.decoder(in_place + self.position)

    def _targets(self, image: torch.Tensor) -> torch.Tensor:
        """Patches (B, N, patch) of mean 0 and variance 1."""
        pixels = F.unfold(image.float(), self.patch_size, stride=self.patch_size).transpose(1, 2)
        variance, mean = torch.var_mean(pixels, dim=2, keepdim=True)
        return (pixels - mean) / (variance + 1e-6).sqrt()


def save_image_encoder(path: str | Path, image_encoder: VisionEncoder) -> None:
    """Writes the ViT's weights as timm names them, to be read as ``checkpoint_path`` of a :class:`VisionEncoder`.

    The grid of patches stands beside them: an encoder for slices of another size resamples the position embeddings, and
    their number alone does not tell a grid that is no square; so does the number of attention heads, which no tensor
    tells. A file that is there already is replaced only by a
    complete one.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    weights = {key: value.detach().cpu().clone() for key, value in image_encoder.model.state_dict().items()}
    content = {"state_dict": weights, GRID: list(image_encoder.grid_size), HEADS: heads_of(image_encoder.model)}
    write_atomically(path, lambda beside: torch.save(content, beside))


def _take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Tokens (B, n, D) at index (B, n), out of (B, N, D)."""
    return tokens.gather(1, index.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
