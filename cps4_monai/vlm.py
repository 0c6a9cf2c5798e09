"""The vision-language model of stage 1: an image and the class prompts in, attention logits out."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.attention_maps import check_activation
from cps4_monai.text.encoder import TextEncoder
from cps4_monai.vision.checkpoint import load_prompted_vision, read_prompted_vision, save_prompted_vision
from cps4_monai.vision.encoder import VisionEncoder
from cps4_monai.vision.layer_decay import pretrained_groups
from cps4_monai.vision.projection import make_projection
from cps4_monai.vision.prompted import PromptedVision, attention_logits, check_background

__all__ = [
    "PromptedVision",
    "VisionLanguageModel",
    "attention_logits",
    "load_prompted_vision",
    "read_prompted_vision",
    "save_prompted_vision",
]


class VisionLanguageModel(nn.Module):
    """Patch tokens and prompt tokens in one space; their scaled cosine is the attention logit (paper, section 2.1).

    logits_i(u) = w * cos(F_I(u), F_T,i) + b, and A_i is their sigmoid, or their softmax over the classes. w and b are
    learned; w is kept positive by learning its logarithm, so that ranking by logit and by similarity are the same.

    Args:
        image_encoder: slices to patch tokens.
        text_encoder: prompts to embeddings.
        prompts: one text per class, by code; tokenised once.
        embedding_dim: E, the size of the common space (512 in the paper's settings).
        logit_scale_init: start of w, positive.
        logit_bias_init: start of b.
        background: "prompt", a class prompt like the others; "complement", A_0 = 1 - max of A over the structures,
            for sigmoid maps.
        unannotated: codes in view but never labeled; the complement ignores them.
        activation: how A is made of the logits: "sigmoid" or "softmax". The loss of stage 1 does it; the frozen copy
            carries it along, for prompt maps and pictures.
        centre_prompts: subtract the mean over the prompts from the text tokens before they are projected. The prompts
            differ in one name, so their tokens point almost the same way (cosine 0.96 and more at the start), and stage
            1 spends its first hundreds of iterations on telling them apart; what is left after their common part is
            taken away points apart from the first step (Mu and Viswanath, "All-but-the-top", ICLR 2018, remove it
            likewise).
        projection: of both sides into the common space: "linear", or "mlp" (two layers with BatchNorm, as the heads of
            MGCA).

    Raises:
        ValueError: prompts that the encoder cannot take or tell apart, w that is not positive, an unknown background,
            activation or projection, or a complement under a softmax.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    def __init__(
        self,
        image_encoder: VisionEncoder,
        text_encoder: TextEncoder,
        prompts: Sequence[str],
        embedding_dim: int = 512,
        logit_scale_init: float = 10.0,
        logit_bias_init: float = -2.5,
        background: str = "prompt",
        unannotated: Sequence[int] = (),
        centre_prompts: bool = False,
        activation: str = "sigmoid",
        projection: str = "linear",
    ) -> None:
        super().__init__()
        check_background(background, unannotated, len(prompts))
        check_activation(activation)
        if background == "complement" and activation != "sigmoid":
            raise ValueError(
                f"background is 'complement' and activation {activation!r}, under which A_0 would not be 1 - max of A. "
                "Fix: background='prompt', or activation='sigmoid'"
            )
        if not logit_scale_init > 0:
            raise ValueError(f"logit_scale_init is {logit_scale_init}; expected a positive number, 10 by default")
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.prompts = tuple(prompts)
        self.background = background
        self.activation = activation
        self.centre_prompts = centre_prompts
        self.unannotated = tuple(sorted(unannotated))
        self.embedding_dim = embedding_dim
        self.projection = projection
        self.image_projection = make_projection(projection, image_encoder.embed_dim, embedding_dim)
        # A bias is common to all prompts, and goes with their mean.
        self.text_projection = make_projection(
            projection, text_encoder.embed_dim, embedding_dim, bias=not centre_prompts
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale_init)))
        self.logit_bias = nn.Parameter(torch.tensor(float(logit_bias_init)))
        for key, value in text_encoder.tokenize(prompts).items():
            self.register_buffer(key, value, persistent=False)

    @property
    def logit_scale(self) -> torch.Tensor:
        """w, a positive scalar."""
        return self.log_scale.exp()

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.prompts)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image_encoder.image_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """(h, w) of the attention maps."""
        return self.image_encoder.grid_size

    def head(self) -> nn.Module:
        """A new projection within the common space, of the kind of the model's own."""
        return make_projection(self.projection, self.embedding_dim, self.embedding_dim)

    def prompt_embeddings(self, wording: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """Prompt embeddings (C, E) float32, of length one.

        Args:
            wording: token ids and attention mask, both (C, L), of other texts for the classes; None: the prompts.
        """
        return F.normalize(self._projected_prompts(wording).float(), dim=1)

    def patch_embeddings(self, image: torch.Tensor) -> torch.Tensor:
        """Patch embeddings (B, E, h, w) float32, of length one along E, of images (B, 1, H, W) in [0, 1]."""
        return F.normalize(self._projected_patches(image).float(), dim=1)

    def _projected_prompts(self, wording: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        tokens = self.text_encoder(*((self.input_ids, self.attention_mask) if wording is None else wording))
        if not self.centre_prompts:
            return self.text_projection(tokens)
        with torch.autocast(tokens.device.type, enabled=False):  # differences of nearly equal vectors
            return self.text_projection(tokens.float() - tokens.float().mean(dim=0))

    def embed(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides of the common space, for objectives that compare them otherwise than by attention logits.

        A training step asks for them by ``model(image, embeddings=True)``, which ``DistributedDataParallel`` sees.

        Args:
            image: (B, 1, H, W) in [0, 1].

        Returns:
            Patch embeddings (B, E, h, w) and prompt embeddings (C, E), float32, each of length one along E.
        """
        return self.patch_embeddings(image), self.prompt_embeddings()

    def _projected_patches(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.image_encoder(image)  # (B, D, h, w)
        return self.image_projection(tokens.movedim(1, -1).contiguous()).movedim(-1, 1)  # (B, E, h, w)

    def forward(
        self, image: torch.Tensor, embeddings: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Attention logits of a batch.

        Args:
            image: (B, 1, H, W) in [0, 1].
            embeddings: give :meth:`embed` instead.

        Returns:
            (B, C, h, w) float32.
        """
        if embeddings:
            return self.embed(image)
        tokens, prompts = self._projected_patches(image), self._projected_prompts()
        return attention_logits(tokens, prompts, self.logit_scale, self.logit_bias, self.background, self.unannotated)

    def parameter_groups(
        self, lr_pretrained: float = 1e-5, lr_new: float = 5e-4, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Groups for Adam (row 12 of the settings): encoders that start from trained weights, and all the rest.

        Args:
            lr_pretrained: learning rate of pretrained encoders, of their last block and what follows it.
            lr_new: learning rate of the projections, w, b and encoders from scratch.
            layer_decay: in (0, 1]; rate of each block of a pretrained encoder over the next block's, see
                :func:`cps4_monai.vision.layer_decay.pretrained_groups`.

        Returns:
            Those groups, then "new", each with ``params``, ``lr`` and ``name``; every trainable parameter is in one.

        Raises:
            ValueError: a layer decay outside (0, 1].
        """
        encoders = [encoder for encoder in (self.image_encoder, self.text_encoder) if encoder.pretrained]
        groups = pretrained_groups(encoders, lr_pretrained, layer_decay)
        seen = {id(p) for group in groups for p in group["params"]}
        new = [p for p in self.parameters() if p.requires_grad and id(p) not in seen]
        return [*groups, *([{"params": new, "lr": lr_new, "name": "new"}] if new else [])]

    @torch.no_grad()
    def freeze(self) -> PromptedVision:
        """A frozen copy of the image side with the prompt embeddings as they are now; no text encoder in it."""
        was_training = self.training
        self.eval()
        embeddings = self.prompt_embeddings()
        self.train(was_training)
        frozen = PromptedVision(
            copy.deepcopy(self.image_encoder),
            embeddings,
            self.logit_scale,
            self.logit_bias,
            self.background,
            self.unannotated,
            self.activation,
            self.projection,
        )
        frozen.projection.load_state_dict(self.image_projection.state_dict())
        return frozen.to(embeddings.device)
