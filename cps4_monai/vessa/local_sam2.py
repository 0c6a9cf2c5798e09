"""SAM 2 of transformers, from a local folder, as the assistant's mask decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from cps4_monai.vessa.local_folder import load_locally
from cps4_monai.vessa.parts import Feedback, Picture, Templates

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of SAM 2's processor
CORNERS_AND_POINT = (2, 3, 1)  # labels of SAM's prompts: upper left, lower right, within
NO_PROMPT = -1


class LocalSam2(nn.Module):
    """``Sam2VideoModel``: templates are frames with a mask, the picture is the next frame, each class is an object.

    The vision encoder stays as it was trained; memory encoder, memory attention, prompt encoder and mask decoder train.
    All templates have the time of a conditioning frame, so that their order does not matter. Pictures are stretched to
    the model's square, as its own processor does. Objects go through in chunks.

    Args:
        folder: where a ``Sam2VideoModel`` was saved; None: built of `config`, its weights to be loaded.
        num_classes: C.
        width: of the ``<SEG>`` embeddings.
        chunk: objects a pass.
        config: the model's configuration, as a mapping; None: the folder's.

    Raises:
        ValueError: neither folder nor configuration, or a folder that holds no such model.
    """

    waits_for_device = False
    mean: Tensor
    std: Tensor
    labels: Tensor

    def __init__(
        self,
        folder: str | Path | None = None,
        num_classes: int = 20,
        width: int = 256,
        chunk: int = 8,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.pretrained = config is None
        if config is None:
            self.model: Any = load_locally(Sam2VideoModel, folder, "SAM 2 video model", "vessa_sam2_folder")
        else:
            self.model = Sam2VideoModel(Sam2VideoConfig(**config))
        settings = self.model.config
        self.arguments: dict[str, Any] = {
            "num_classes": num_classes,
            "width": width,
            "chunk": chunk,
            "config": settings.to_dict(),
        }
        self.num_classes, self.chunk = num_classes, chunk
        self.model.vision_encoder.requires_grad_(False)
        self.model.mask_decoder.dynamic_multimask_via_stability = False  # one mask, the same in both modes
        self.prompt = nn.Linear(width, settings.prompt_encoder_config.hidden_size)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("labels", torch.tensor(CORNERS_AND_POINT), persistent=False)
        self._rest()

    def _rest(self) -> None:
        """Parts of SAM 2 that this use of it never asks: they would be parameters without a gradient."""
        model = self.model
        for part in (model.object_pointer_proj, model.temporal_positional_encoding_projection_layer):
            part.requires_grad_(False)
        model.mask_downsample.requires_grad_(False)
        model.no_object_pointer.requires_grad_(False)
        model.no_memory_positional_encoding.requires_grad_(False)

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """What came trained from the folder and trains on: all but `prompt`; empty where only weights are loaded."""
        return [p for p in self.model.parameters() if p.requires_grad] if self.pretrained else []

    def train(self, mode: bool = True) -> LocalSam2:
        """The vision encoder stays in evaluation mode."""
        super().train(mode)
        self.model.vision_encoder.eval()
        return self

    def forward(self, picture: Picture, templates: Templates, seg: Tensor, feedback: Feedback) -> Tensor:
        """Logits (B, C, 4 h, 4 w) on the model's square grid. See :class:`cps4_monai.vessa.parts.MaskDecoder`."""
        batch, count = templates.labels.shape[:2]
        levels, places = self._features(picture.image)
        shown = self._features(templates.images.flatten(0, 1))[0][-1].unflatten(0, (batch, count))
        chunks = torch.arange(self.num_classes, device=seg.device).split(self.chunk)
        logits = [self._objects(codes, levels, places, shown, templates, seg, feedback) for codes in chunks]
        return torch.cat(logits, dim=1)

    def _features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Levels (B, C', h', w') of the pictures, high resolution first, and the last one's places (h * w, B, C')."""
        size = (self.model.image_size, self.model.image_size)
        pixels = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        seen = self.model.get_image_features((pixels.expand(-1, 3, -1, -1) - self.mean) / self.std)
        sizes = self.model.backbone_feature_sizes
        levels = [
            level.permute(1, 2, 0).unflatten(2, tuple(size))
            for level, size in zip(seen.fpn_hidden_states, sizes, strict=True)
        ]
        return levels, seen.fpn_position_encoding[-1]

    def _objects(
        self,
        codes: Tensor,
        levels: list[Tensor],
        places: Tensor,
        shown: Tensor,
        templates: Templates,
        seg: Tensor,
        feedback: Feedback,
    ) -> Tensor:
        """Logits (B, K, 4 h, 4 w) of K classes: pictures and classes together are a batch of B * K objects."""
        batch, count = len(seg), len(codes)
        remembered = self._remember(codes, levels[-1], places, shown, templates)
        sparse, dense = self._prompts(codes, seg, feedback)
        position = self.model.get_image_wide_positional_embeddings().expand(batch * count, -1, -1, -1)
        high = [level.repeat_interleave(count, dim=0) for level in levels[:-1]]
        masks, *_ = self.model.mask_decoder(
            image_embeddings=remembered,
            image_positional_embeddings=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=high,
        )
        return masks[:, 0, 0].unflatten(0, (batch, count))

    def _remember(self, codes: Tensor, level: Tensor, places: Tensor, shown: Tensor, templates: Templates) -> Tensor:
        """The picture's last level for each object, (B * K, C', h, w), after it has looked at the memory."""
        memory, memory_places = self._memory(codes, shown, templates)
        count, size = len(codes), level.shape[2:]
        flat = level.flatten(2).permute(2, 0, 1)  # (h * w, B, C')
        of_objects = flat.repeat_interleave(count, dim=1)
        conditioned = self.model.memory_attention(
            current_vision_features=of_objects,
            current_vision_position_embeddings=places.repeat_interleave(count, dim=1),
            memory=memory,
            memory_posision_embeddings=memory_places,
        )
        conditioned = conditioned.squeeze(0) if conditioned.ndim == 4 else conditioned.transpose(0, 1)
        without = (of_objects + self.model.no_memory_embedding).transpose(0, 1)
        there = templates.there.repeat_interleave(count)[:, None, None]
        return torch.where(there, conditioned, without).transpose(1, 2).unflatten(2, size)

    def _memory(self, codes: Tensor, shown: Tensor, templates: Templates) -> tuple[Tensor, Tensor]:
        """Memory (n * h * w, B * K, 64) of each object and its places: mask encoder plus projected features."""
        model, config = self.model, self.model.config
        batch, count = shown.shape[:2]
        masks = templates.labels.long() == codes.view(1, 1, -1, 1, 1)  # (B, n, K, H, W)
        side = 4 * model.prompt_encoder.mask_input_size[0]
        scaled = F.interpolate(masks.flatten(0, 1).float(), (side, side), mode="bilinear", antialias=True)
        scaled = scaled * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        seen = shown.flatten(0, 1).repeat_interleave(len(codes), dim=0)
        memory, places = model.memory_encoder(seen, scaled.flatten(0, 1).unsqueeze(1))
        if model.occlusion_spatial_embedding_parameter is not None:
            absent = ~masks.flatten(3).any(3).flatten()[:, None, None, None]
            memory = memory + absent * model.occlusion_spatial_embedding_parameter[..., None, None]
        places = places.flatten(2).transpose(1, 2) + model.memory_temporal_positional_encoding[-1]
        tokens = memory.flatten(2).transpose(1, 2)  # (B * n * K, h * w, 64)
        return self._by_object(tokens, batch, count), self._by_object(places.expand_as(tokens), batch, count)

    @staticmethod
    def _by_object(tokens: Tensor, batch: int, count: int) -> Tensor:
        """(B * n * K, h * w, D) to (n * h * w, B * K, D)."""
        return tokens.unflatten(0, (batch, count, -1)).permute(1, 3, 0, 2, 4).flatten(2, 3).flatten(0, 1)

    def _prompts(self, codes: Tensor, seg: Tensor, feedback: Feedback) -> tuple[Tensor, Tensor]:
        """Sparse (B * K, 1, 5, D) and dense (B * K, D, h, w) embeddings of the chosen classes."""
        encoder = self.model.prompt_encoder
        corners, points = feedback.boxes[:, codes], feedback.points[:, codes]
        where = torch.stack((corners[..., :2], corners[..., 2:], points), dim=2)  # (B, K, 3, 2)
        box, point = feedback.box_given[:, codes], feedback.point_given[:, codes]
        labels = torch.where(torch.stack((box, box, point), dim=2), self.labels, NO_PROMPT)
        where, labels = where.flatten(0, 1)[:, None] * encoder.input_image_size, labels.flatten(0, 1)[:, None]
        masks = feedback.masks[:, codes]
        masks = F.interpolate(masks, encoder.mask_input_size, mode="bilinear", antialias=True)
        logits = torch.logit(masks.flatten(0, 1).unsqueeze(1), eps=1e-4)
        sparse, no_mask = encoder(where, labels, None, None)
        dense = encoder.mask_embed(logits)
        given = feedback.mask_given[:, codes].flatten()[:, None, None, None]
        seg_token = self.prompt(seg[:, codes]).flatten(0, 1)[:, None, None]
        return torch.cat((seg_token, sparse), dim=2), torch.where(given, dense, no_mask)
