"""The mask decoder that is trained from scratch: SAM's scheme with a memory of templates, all classes in one pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cps4_monai.vessa.attention import Attention, attention_without_dropout, turned
from cps4_monai.vessa.parts import Feedback, Picture, Templates
from cps4_monai.vessa.positions import FourierPositions

# Factor of the first weights of queries and keys: about half of a patch's attention goes to its like.
SHARPNESS = 2.5


class SmallSam(nn.Module):
    """Memory attention over templates, sparse and dense prompts, a two-way decoder, one hypernetwork MLP per class.

    A memory token is a template's patch token plus the mean class embedding of its patch; templates are unordered. Each
    class has four sparse tokens, the ``<SEG>`` embedding, two corners of a box and a point, and all classes look at the
    picture, and at one another, together. Masks have four times the resolution of the patches. After SAM 2 (Ravi et
    al., arXiv 2408.00714); nothing is copied.

    Args:
        image_dim: D, size of a patch token.
        num_classes: C.
        width: of all tokens; that of the reference encoder. A multiple of 8 and of the heads.
        heads: attention heads.
        memory_depth: layers of self and cross attention over the memory.
        decoder_depth: two-way layers.
        dropout: while training.

    Raises:
        ValueError: a width that is no multiple of 8.
    """

    waits_for_device = False

    def __init__(
        self,
        image_dim: int,
        num_classes: int,
        width: int = 256,
        heads: int = 8,
        memory_depth: int = 2,
        decoder_depth: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % 8:
            raise ValueError(f"width is {width}; expected a multiple of 8. Fix: choose one, as 256")
        self.arguments: dict[str, Any] = {
            "image_dim": image_dim,
            "num_classes": num_classes,
            "width": width,
            "heads": heads,
            "memory_depth": memory_depth,
            "decoder_depth": decoder_depth,
            "dropout": dropout,
        }
        self.image_in = nn.Linear(image_dim, width)  # of pictures and templates: they are compared
        self.classes = nn.Parameter(torch.randn(num_classes, width))
        self.positions = FourierPositions(width)
        self.memory_attention = nn.ModuleList(MemoryLayer(width, heads, dropout) for _ in range(memory_depth))
        self.prompts = PromptTokens(num_classes, width, self.positions)
        self.decoder = nn.ModuleList(TwoWayLayer(width, heads, dropout) for _ in range(decoder_depth))
        self.norm_sparse, self.norm_image = nn.LayerNorm(width), nn.LayerNorm(width)
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            nn.GroupNorm(1, width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.hypernetworks = ClassMLPs(num_classes, width, width // 8)

    def forward(self, picture: Picture, templates: Templates, seg: Tensor, feedback: Feedback) -> Tensor:
        """Logits (B, C, 4 h, 4 w). See :class:`cps4_monai.vessa.parts.MaskDecoder`."""
        height, width = picture.tokens.shape[2:]
        places = self.positions.grid(height, width)
        image = self._remember(picture, templates, places)
        dense, sparse = self.prompts(feedback, seg, self.classes, (height, width))
        image = image + dense
        for layer in self.decoder:
            sparse, image = layer(sparse, image, places)
        masks = self.upsample(self.norm_image(image).transpose(1, 2).unflatten(2, (height, width)))
        of_class = self.hypernetworks(self.norm_sparse(sparse[:, : seg.shape[1]]))
        return torch.einsum("bcd,bdhw->bchw", of_class, masks)

    def _remember(self, picture: Picture, templates: Templates, places: Tensor) -> Tensor:
        """Patches of the picture (B, h * w, width) after they have looked at the templates."""
        image = self.image_in(picture.tokens.flatten(2).transpose(1, 2).contiguous())
        shown = self.image_in(templates.tokens.flatten(3).transpose(2, 3).contiguous())  # (B, n, h * w, width)
        cells = templates.cells.flatten(3).transpose(2, 3).contiguous()
        memory = shown + cells.to(shown.dtype) @ self.classes.to(shown.dtype)
        where = places.repeat(templates.tokens.shape[1], 1)
        absent = ~templates.there[:, None].expand(-1, len(where))
        for layer in self.memory_attention:
            image = layer(image, places, memory.flatten(1, 2), shown.flatten(1, 2), where, absent)
        return image + places


class MemoryLayer(nn.Module):
    """Patches look at one another, then at the memory: at what looks alike and lies at the same place.

    Keys are the templates' patches with their places, values are memory tokens, with the classes in them. Queries and
    keys begin with one projection, so that patches that are alike attend to each other from the first step: labels are
    few, and from an even attention it takes long to learn where a class is named.

    Args:
        width: of a token.
        heads: attention heads.
        dropout: while training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.among = Attention(width, heads)
        self.memory = Attention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.no_memory = nn.Parameter(torch.zeros(1, 1, width))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        with torch.no_grad():
            query, key, _ = self.memory.in_proj_weight.chunk(3)
            key.copy_(query.mul_(SHARPNESS))

    def forward(
        self, image: Tensor, places: Tensor, memory: Tensor, shown: Tensor, where: Tensor, absent: Tensor
    ) -> Tensor:
        """Patches (B, h * w, width) that know what the templates show.

        Args:
            image: patches of the picture, (B, h * w, width).
            places: of them, (h * w, width).
            memory: (B, m, width), patches of the templates with their classes.
            shown: (B, m, width), without.
            where: their places, (m, width).
            absent: (B, m) bool, tokens that are not there; one more, which says so, always is.
        """
        first, second, third, keys = self.norms
        among = first(image) + places
        image = image + self.dropout(self.among(among, among, first(image)))
        nothing = self.no_memory.expand(len(image), -1, -1).to(memory.dtype)
        key = torch.cat((keys(shown) + where, nothing), dim=1)
        value, absent = torch.cat((memory, nothing), dim=1), F.pad(absent, (0, 1), value=False)
        image = image + self.dropout(self.memory(second(image) + places, key, value, absent))
        return image + self.mlp(third(image))


class PromptTokens(nn.Module):
    """Prompts as tokens: sparse ones per class, and dense ones that are added to the picture's patches.

    Args:
        num_classes: C.
        width: of a token.
        positions: places as vectors, shared with the picture.
    """

    def __init__(self, num_classes: int, width: int, positions: FourierPositions) -> None:
        super().__init__()
        self.positions = positions
        self.kinds = nn.Parameter(torch.randn(3, width))  # of the two corners and the point
        self.no_prompt = nn.Parameter(torch.randn(3, width))
        self.masks = nn.Conv2d(num_classes, width, 4, stride=4, bias=False)
        self.no_mask = nn.Parameter(torch.randn(num_classes, width))

    def forward(
        self, feedback: Feedback, seg: Tensor, classes: Tensor, grid_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Dense (B, h * w, width) and sparse (B, 4 C, width) embeddings; the first C sparse ones are the masks' own.

        Args:
            feedback: the prompts.
            seg: (B, C, width).
            classes: embeddings of the classes, (C, width).
            grid_size: (h, w).
        """
        return self._dense(feedback, grid_size), self._sparse(feedback, seg, classes)

    def _dense(self, feedback: Feedback, grid_size: tuple[int, int]) -> Tensor:
        given = feedback.mask_given
        masks = F.adaptive_avg_pool2d(feedback.masks.contiguous(), (4 * grid_size[0], 4 * grid_size[1]))
        seen = self.masks(masks * given[:, :, None, None]).flatten(2).transpose(1, 2)
        return seen + ((~given).to(self.no_mask.dtype) @ self.no_mask).unsqueeze(1)

    def _sparse(self, feedback: Feedback, seg: Tensor, classes: Tensor) -> Tensor:
        places = torch.stack((feedback.boxes[..., :2], feedback.boxes[..., 2:], feedback.points), dim=1)  # (B, 3, C, 2)
        given = torch.stack((feedback.box_given, feedback.box_given, feedback.point_given), dim=1).unsqueeze(3)
        embedded = self.positions(places) + self.kinds[None, :, None]
        embedded = torch.where(given, embedded, self.no_prompt[None, :, None])
        tokens = torch.cat((seg.unsqueeze(1).to(embedded.dtype), embedded), dim=1) + classes  # (B, 4, C, width)
        return tokens.flatten(1, 2)


class TwoWayLayer(nn.Module):
    """Prompts look at one another and at the picture, then the picture looks at them.

    Args:
        width: of a token.
        heads: attention heads.
        dropout: while training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.prompts = attention_without_dropout(
            nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, "gelu", norm_first=True)
        )
        self.picture = Attention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm_picture, self.norm_prompts = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, prompts: Tensor, picture: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (B, n, width) and picture (B, h * w, width), changed; `places` (h * w, width) mark where a patch is.

        Args:
            prompts: (B, n, width).
            picture: (B, h * w, width).
            places: (h * w, width).
        """
        seen = self.norm_picture(picture + places)
        prompts = turned(self.prompts(turned(prompts), turned(seen)))
        keys = self.norm_prompts(prompts)
        return prompts, picture + self.dropout(self.picture(seen, keys, keys))


class ClassMLPs(nn.Module):
    """An MLP of three layers for each class, all of them computed at once.

    Args:
        num_classes: C.
        width: of the input and of the hidden layers.
        out: of the output.
    """

    def __init__(self, num_classes: int, width: int, out: int) -> None:
        super().__init__()
        sizes = ((width, width), (width, width), (width, out))
        self.weights = nn.ParameterList(torch.randn(num_classes, *size) * (2 / size[0]) ** 0.5 for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(num_classes, size[1]) for size in sizes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, C, out) of (B, C, width)."""
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tokens = torch.einsum("bci,cio->bco", tokens, weight) + bias
            tokens = tokens if index == last else F.gelu(tokens)
        return tokens
