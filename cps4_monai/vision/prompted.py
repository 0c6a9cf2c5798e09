"""What stage 2 needs of the vision-language model: the image side, and one stored embedding per class prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.attention_maps import activate, check_activation
from cps4_monai.logits import NEVER
from cps4_monai.vision.projection import make_projection

if TYPE_CHECKING:
    from cps4_monai.vision.encoder import VisionEncoder

BACKGROUNDS = ("prompt", "complement")


def attention_logits(
    tokens: torch.Tensor,
    prompts: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    background: str = "prompt",
    unannotated: Sequence[int] = (),
) -> torch.Tensor:
    """Logits of the attention maps, ``scale * cos(patch token, prompt) + bias`` (rows 1 and 5 of the settings).

    Computed in float32 also under autocast: the cosines of similar prompts differ in the third digit.

    Args:
        tokens: (B, E, h, w), projected patch tokens, of any length.
        prompts: (C, E), projected prompt embeddings, of any length.
        scale: scalar w, positive.
        bias: scalar b.
        background: "prompt", a class like the others; "complement", A_0 = 1 - max of A over the annotated structures,
            which in logits is minus their maximum.
        unannotated: codes that take no part in the complement.

    Returns:
        (B, C, h, w) float32.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        image_side = F.normalize(tokens.float(), dim=1).flatten(2)  # (B, E, h * w)
        text_side = F.normalize(prompts.float(), dim=1)  # (C, E)
        logits = scale.float() * (text_side @ image_side) + bias.float()  # (B, C, h * w)
        if background == "complement":
            structures = logits.clone()
            for code in {0, *unannotated}:  # one by one: a list of codes would be copied to the device
                structures[:, code] = -torch.inf
            logits = torch.cat([-structures.amax(1, keepdim=True), logits[:, 1:]], dim=1)
    return logits.unflatten(2, tokens.shape[2:])


class PromptedVision(nn.Module):
    """The frozen image side of a trained vision-language model, always in eval mode and without gradients.

    Args:
        image_encoder: the ViT.
        prompt_embeddings: (C, E), the projected prompt embeddings.
        logit_scale: w of the attention logits, positive.
        logit_bias: b of the attention logits.
        background: "prompt" or "complement", as in :func:`attention_logits`.
        unannotated: codes that stage 1 did not train.
        activation: how A is made of the logits, as stage 1 trained it.
        projection: kind of the image side's projection, "linear" or "mlp".

    Attributes:
        objective: what the weights were trained by; empty where nothing is known.
        substitution: what stood in place of data that the objective was published with; None: nothing.
        path: of the file that it was read from; None: of none.
        validated: what that file's weights were chosen by, name -> score; empty where nothing is known.
        image_size: (H, W) that it takes.
        grid_size: (h, w) of its attention maps.
        num_classes: C.

    Raises:
        ValueError: an unknown background, activation or projection, or codes outside 0..C-1.
    """

    embeddings: torch.Tensor
    logit_scale: torch.Tensor
    logit_bias: torch.Tensor

    def __init__(
        self,
        image_encoder: VisionEncoder,
        prompt_embeddings: torch.Tensor,
        logit_scale: float | torch.Tensor = 10.0,
        logit_bias: float | torch.Tensor = -2.5,
        background: str = "prompt",
        unannotated: Sequence[int] = (),
        activation: str = "sigmoid",
        projection: str = "linear",
    ) -> None:
        super().__init__()
        check_background(background, unannotated, len(prompt_embeddings))
        check_activation(activation)
        self.activation = activation
        self.objective = ""
        self.substitution: str | None = None
        self.validated: Mapping[str, float] = {}
        self.path: Path | None = None
        self.image_encoder = image_encoder
        self.projection_kind = projection
        self.projection = make_projection(projection, image_encoder.embed_dim, prompt_embeddings.shape[1])
        self.background = background
        self.unannotated = tuple(sorted(unannotated))
        self.register_buffer("embeddings", prompt_embeddings.detach().clone().float())
        self.register_buffer("logit_scale", torch.as_tensor(logit_scale).detach().clone().float())
        self.register_buffer("logit_bias", torch.as_tensor(logit_bias).detach().clone().float())
        self.requires_grad_(False)
        self.eval()

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image_encoder.image_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """(h, w) of the attention maps."""
        return self.image_encoder.grid_size

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.embeddings)

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values from which, with the weights, the same model is built."""
        return {
            "image_encoder": self.image_encoder.arguments,
            "embedding_dim": int(self.embeddings.shape[1]),
            "background": self.background,
            "projection": self.projection_kind,
        }

    def prompt_embeddings(self) -> torch.Tensor:
        """Prompt embeddings (C, E), of length one."""
        return F.normalize(self.embeddings, dim=1)

    def train(self, mode: bool = True) -> PromptedVision:
        """Stays in eval mode whatever is asked: drop-path or dropout would change the pseudo-labels."""
        return super().train(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Attention logits (B, C, h, w) float32 of slices (B, 1, H, W) in [0, 1]."""
        return self.logits(self.project(image))

    def project(self, image: torch.Tensor) -> torch.Tensor:
        """Projected patch tokens (B, E, h, w), of any length, of slices (B, 1, H, W) in [0, 1]."""
        tokens = self.image_encoder(image)  # (B, D, h, w)
        return self.projection(tokens.movedim(1, -1).contiguous()).movedim(-1, 1)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attention logits (B, C, h, w) float32 of what :meth:`project` gives."""
        return attention_logits(
            tokens, self.embeddings, self.logit_scale, self.logit_bias, self.background, self.unannotated
        )

    @torch.no_grad()
    def attention_maps(self, image: torch.Tensor) -> torch.Tensor:
        """A (B, C, h, w) float32 in [0, 1] of slices (B, 1, H, W) in [0, 1]; 0 in untrained classes."""
        logits = self(image)
        for code in self.unannotated:
            logits[:, code] = NEVER
        return activate(logits, self.activation)


def check_background(background: str, unannotated: Sequence[int], num_classes: int) -> None:
    """Refuses an unknown background, codes outside the classes, and a complement of nothing.

    Raises:
        ValueError: as said.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background is {background!r}; expected one of {list(BACKGROUNDS)}")
    outside = [code for code in unannotated if not 0 < code < num_classes]
    if outside:
        raise ValueError(f"unannotated holds {outside}; expected codes of structures, 1 to {num_classes - 1}")
    if background == "complement" and num_classes - 1 - len(set(unannotated)) < 1:
        raise ValueError("background 'complement' needs at least one annotated structure; use background='prompt'")
