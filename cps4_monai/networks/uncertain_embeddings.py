"""A vision-language model that says of each embedding how sure it is: Gaussian heads, captions, masked views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cps4_monai.networks.composite import Composite

LOG_SIGMA_LIMIT = 5.0
LOCAL_GRID = 4


class GaussianHead(nn.Module):
    """Mean and standard deviation (n, E) of an embedding (n, E): one linear layer each, in float32.

    Args:
        dim: E.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mu = nn.Linear(dim, dim)
        self.log_sigma = nn.Linear(dim, dim)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """``mu`` and ``sigma``, the exponential of a logarithm within +-5."""
        return self.mu(embedding), self.log_sigma(embedding).clamp(-LOG_SIGMA_LIMIT, LOG_SIGMA_LIMIT).exp()


class UncertainEmbeddings(Composite):
    """A vision-language model with a Gaussian head for pictures and one for texts, trained around it.

    The embedding of a slice is the mean of its patch embeddings; that of a caption is the mean of the prompts of the
    classes that it names. Both are given at length one, and their heads see them before they are.

    Args:
        backbone: a :class:`cps4_monai.vlm.VisionLanguageModel`.
        wordings: a second text for each class, by code, for :meth:`forward` with ``second_wording``.

    Raises:
        ValueError: texts that are not one per class, or equal the prompts.
    """

    second_ids: Tensor
    second_mask: Tensor
    backbone: Any

    def __init__(self, backbone: nn.Module, wordings: Sequence[str]) -> None:
        super().__init__(backbone)
        prompts = list(self.backbone.prompts)
        if len(wordings) != len(prompts) or list(wordings) == prompts:
            raise ValueError(
                f"wordings are {len(wordings)} texts, the first {list(wordings)[:1]}; expected another text for each "
                f"of the {len(prompts)} prompts, the first {prompts[:1]}. Fix: set second_prompt_template to another "
                "sentence with {name} than prompt_template"
            )
        device = next(backbone.parameters()).device
        tokens = self.backbone.text_encoder.tokenize(wordings)
        self.register_buffer("second_ids", tokens["input_ids"].to(device), persistent=False)
        self.register_buffer("second_mask", tokens["attention_mask"].to(device), persistent=False)
        dim = self.backbone.embedding_dim
        self.image_gaussian = GaussianHead(dim).to(device)
        self.text_gaussian = GaussianHead(dim).to(device)

    def parameter_groups(self, *arguments: Any, **settings: Any) -> list[dict[str, Any]]:
        """Groups of the backbone's ``parameter_groups``, the heads among what is new."""
        groups = self.backbone.parameter_groups(*arguments, **settings)
        new = next(group for group in groups if group["name"] == "new")
        new["params"] = [*new["params"], *self.image_gaussian.parameters(), *self.text_gaussian.parameters()]
        return groups

    def forward(
        self, image: Tensor, shown: Tensor | None = None, second_wording: bool = False, masked: bool = False
    ) -> Tensor | dict[str, Tensor]:
        """Attention logits (B, C, h, w); with ``shown`` all that a contrast of slices and captions needs.

        Args:
            image: (B, 1, H, W) in [0, 1].
            shown: (B, C, h, w) bool, the classes in each cell of the grid: captions name them, and cells without any,
                which nobody annotated, are part of no mean.
            second_wording: of the classes, instead of the prompts.
            masked: with the similarities of what captions hold of a slice, which cost one more pass of the encoder.

        Returns:
            Float32: of ``image``, ``caption`` (B, E) and ``prompt`` (C, E) the embedding of length one and, as
            ``image_mu``, ``image_sigma``, ..., their Gaussians; ``local`` (B, 16, E), mean embeddings of the fields of
            a 4 x 4 grid over the slice, 0 where a field has no annotated cell; with ``masked``, ``masked_feature`` and
            ``masked_image`` (B, B).
        """
        if shown is None:
            return self.backbone(image)
        wording = (self.second_ids, self.second_mask) if second_wording else None
        patches, prompts = self.backbone.patch_embeddings(image), self.backbone.prompt_embeddings(wording)
        with torch.autocast(image.device.type, enabled=False):
            named, cells = shown.flatten(2).any(2).to(prompts.dtype), shown.any(1, keepdim=True).to(patches.dtype)
            captions = named @ prompts / named.sum(1, keepdim=True).clamp(min=1)
            said = {
                **_gaussian("image", _mean(patches, cells), self.image_gaussian),
                **_gaussian("caption", captions, self.text_gaussian),
                **_gaussian("prompt", prompts, self.text_gaussian),
                "local": F.normalize(F.adaptive_avg_pool2d(patches * cells, LOCAL_GRID).flatten(2), dim=1).mT,
            }
        return {**said, **self._masked(image, patches, cells, said["caption"])} if masked else said

    def _masked(self, image: Tensor, patches: Tensor, cells: Tensor, captions: Tensor) -> dict[str, Tensor]:
        """Similarities (B, B) of captions with what they hold: of the features softly, of the picture by a hard mask.

        After Cha et al., "Learning to generate text-grounded mask", CVPR 2023, which the authors of DuSSS follow.
        """
        with torch.autocast(image.device.type, enabled=False):
            cosine = torch.einsum("behw,ke->bkhw", patches, captions)
            logits = self.backbone.logit_scale.float() * cosine + self.backbone.logit_bias.float()
            held = F.normalize(torch.einsum("bkhw,behw->bke", logits.sigmoid() * cells, patches), dim=2)
            own = logits.diagonal().permute(2, 0, 1).unsqueeze(1)  # (B, 1, h, w)
            mask = F.interpolate(hard_mask(own) * cells, size=image.shape[2:], mode="nearest")
        seen = self.backbone.patch_embeddings(image * mask)
        with torch.autocast(image.device.type, enabled=False):
            return {
                "masked_feature": torch.einsum("bke,ke->bk", held, captions),
                "masked_image": F.normalize(_mean(seen, cells), dim=1) @ captions.T,
            }


def hard_mask(logits: Tensor) -> Tensor:
    """0 or 1, drawn with the probability sigmoid(logits); the gradient is that of the soft draw (Gumbel noise).

    Args:
        logits: of any shape.
    """
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    soft = (logits + uniform.logit()).sigmoid()
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())


def _mean(patches: Tensor, cells: Tensor) -> Tensor:
    """(B, E): mean of the patches (B, E, h, w) in the cells (B, 1, h, w) that are 1; 0 where none is."""
    return (patches * cells).sum((2, 3)) / cells.sum((2, 3)).clamp(min=1)


def _gaussian(name: str, pooled: Tensor, head: GaussianHead) -> dict[str, Tensor]:
    mu, sigma = head(pooled)
    return {name: F.normalize(pooled, dim=1), f"{name}_mu": mu, f"{name}_sigma": sigma}
