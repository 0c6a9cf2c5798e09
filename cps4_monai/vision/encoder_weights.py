"""Trained weights of timm's ViTs, from a file or the hub, fitted to one-channel slices."""

from __future__ import annotations

import argparse
import logging
import math
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cps4_monai.pretrained.store import names_of
from cps4_monai.vision.stage1_file import read_any_stage1_file
from cps4_monai.vision.timm_import import (
    adapt_input_conv,
    clean_state_dict,
    load_state_dict,
    resample_abs_pos_embed,
    timm,
)

logger = logging.getLogger(__name__)

UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    ValueError,
    AttributeError,
    pickle.UnpicklingError,
    SafetensorError,
)
GRID = "grid_size"  # in a file of ours, beside the state dict: patches along H and W
HEADS = "num_heads"  # likewise; no tensor has another shape with another number of heads
NOT_TIMMS = ("mask_token", "register_tokens")  # in the publisher's files of DINOv2, and never in ours
_SAME = ("image_size", "num_heads")  # arguments that tensors do not tell
LEADING_TOKENS = range(1, 6)  # class token and up to four registers
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.pt")


def load_checkpoint(model: Any, path: Path, first_blocks: int | None = None) -> None:
    """Loads timm weights from a file, with timm's own resampling, and refuses those of another architecture.

    Args:
        model: a ViT of timm for one channel.
        path: the file, or the folder that holds it under one of the usual names.
        first_blocks: take this many blocks of a file that has more; None: all.

    Raises:
        ValueError: no such file, or one that does not hold weights of this model.
    """
    fix = (
        "pass as checkpoint_path the file that `hf download timm/NAME --local-dir FOLDER` gives for this ViT, or a "
        f"name of `cps4 weights` ({', '.join(names_of('vision'))})"
    )
    if path.is_dir():
        weights = [path / file for file in WEIGHT_FILES if (path / file).is_file()]
        if not weights:
            raise ValueError(f"checkpoint_path {path} holds none of {list(WEIGHT_FILES)}; {fix}")
        path = weights[0]
    if not path.is_file():
        raise ValueError(f"checkpoint_path {path} does not exist; {fix}")
    try:
        state, grid, heads = _read(path)
        _check_heads(model, heads)
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        places = _positions(state, model, grid, path)
        state = {key: value for key, value in state.items() if key not in places}
        state = {**(state if convert is None else convert(state, model)), **places}
        state = for_one_channel(state, model)
        classifiers = model.pretrained_cfg["classifier"]
        last = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers or ())
        state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{name}." for name in last))}
        state = without_pooling(state)
        state = state if first_blocks is None else _without_later_blocks(state, first_blocks)
        model.load_state_dict(state)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:400]
        raise ValueError(
            f"checkpoint_path {path} does not hold weights of {type(model).__name__} as configured ({reason}); {fix}"
        ) from error
    logger.info("vision encoder starts from %s", path)


def heads_of(model: Any) -> int | None:
    """Attention heads of a block; None where a ViT of timm has none, or another kind of block."""
    heads: int | None = getattr(getattr(next(iter(model.blocks), None), "attn", None), "num_heads", None)
    return heads


def _check_heads(model: Any, of_file: int | None) -> None:
    own = heads_of(model)
    if None not in (of_file, own) and of_file != own:
        raise ValueError(f"it has {of_file} attention heads, this encoder {own}")


def _read(path: Path) -> tuple[dict[str, Any], tuple[int, int] | None, int | None]:
    """Weights; grid of patches and attention heads where :func:`cps4_monai.vision.save_image_encoder` names them.

    The weights are those that timm's ``load_state_dict`` takes out of a file, which is read once here.
    """
    if path.suffix == ".safetensors":
        return load_state_dict(str(path)), None, None
    with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments in checkpoints of timm's training
        content = torch.load(path, map_location="cpu", weights_only=True)
    averaged = [key for key in ("state_dict_ema", "model_ema") if content.get(key) is not None]
    key = next(iter([*averaged, *(key for key in ("state_dict", "model") if key in content)]), None)
    grid = content.get(GRID)
    state = clean_state_dict(content if key is None else content[key])
    return state, None if grid is None else (int(grid[0]), int(grid[1])), content.get(HEADS)


def _positions(
    state: Mapping[str, Any], model: Any, grid: tuple[int, int] | None, path: Path
) -> dict[str, torch.Tensor]:
    """``pos_embed`` at the model's grid, where the file names the grid that it is of.

    timm takes every other grid for a square, or for that of the weights that it has itself under the model's name: a
    grid that is neither is refused here, and not resampled to nonsense.

    Raises:
        ValueError: position embeddings of a grid that nobody knows.
    """
    places, own = state.get("pos_embed"), getattr(model, "pos_embed", None)
    if not isinstance(places, torch.Tensor) or own is None:
        return {}
    first = 0 if getattr(model, "no_embed_class", False) else int(model.num_prefix_tokens)
    new_grid = tuple(int(n) for n in model.patch_embed.grid_size)
    if grid is not None:
        resampled = resample_abs_pos_embed(places, list(new_grid), list(grid), num_prefix_tokens=first)
        return {"pos_embed": resampled}
    patches = places.shape[1] - first
    # under other names than timm's, whose conversion takes the places of classes off: DINOv2's with registers has one
    others_names = any(name in state for name in NOT_TIMMS)
    counts = [patches, *(places.shape[1] - tokens for tokens in LEADING_TOKENS if others_names)]
    if places.shape[1] != own.shape[1] and not any(n > 0 and math.isqrt(n) ** 2 == n for n in counts):
        fix = (
            "give stage 1 a slice_size and a patch size of as many patches, or take weights of a square grid"
            if others_names or path.suffix == ".safetensors"
            else "pretrain again (`configs/pretraining.json` now writes the grid), or give stage 1 the slice_size and "
            "the patch size of the pretraining"
        )
        raise ValueError(
            f"its position embeddings are of {patches} patches, this encoder has {new_grid[0]} x {new_grid[1]}, and "
            f"the file does not say of which grid, which is no square: {fix}"
        )
    return {}


def load_stage1_encoder(model: Any, path: str | Path, arguments: Mapping[str, Any]) -> None:
    """Loads the image encoder of a finished stage 1, of any kind.

    Args:
        model: a ViT of timm.
        path: the file between the stages.
        arguments: of the :class:`cps4_monai.vision.VisionEncoder` that the model is of; slice size and heads, which
            tensors of the same shapes may have other ones of, must be those of the file.

    Raises:
        ValueError: no such file, or one whose encoder is another.
    """
    prefix = "image_encoder.model."
    content = read_any_stage1_file(path)
    weights, before = content["weights"], content["arguments"].get("image_encoder", {})
    pairs = {key: (before.get(key), arguments.get(key)) for key in _SAME}
    other = [f"{key} was {then}, is {now}" for key, (then, now) in pairs.items() if then != now]
    try:
        if other:
            raise RuntimeError("; ".join(other))
        model.load_state_dict({key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})
    except RuntimeError as error:
        raise ValueError(
            f"start_from {path}: its image encoder is another than this run's ({' '.join(str(error).split())[:300]}); "
            "pass the file of a stage 1 with the same `stage1#image_encoder` and `slice_size`, or leave it out"
        ) from error
    logger.info("vision encoder goes on from %s", path)


def without_pooling(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict less the attention pooling of SigLIP's kind, which no :class:`VisionEncoder` has."""
    return {key: value for key, value in state.items() if not key.startswith("attn_pool.")}


def _without_later_blocks(state: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The state dict less ``blocks.N...`` for N from ``count`` on."""
    numbers = {key: int(key.split(".")[1]) for key in state if key.startswith("blocks.")}
    return {key: value for key, value in state.items() if numbers.get(key, -1) < count}


def for_one_channel(state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The state dict with its first convolution made for grey pictures; one that is for one channel stays as it is.

    The kernels are summed as timm does, and what each colour's own mean and deviation differ from their averages, by
    which ``VisionEncoder`` normalises, goes into kernel and bias: the answer to a grey picture is that of the
    original model to three equal colours. Without a bias, the constant part of the difference is left out.

    Args:
        state: weights under timm's names.
        model: a ViT of timm that they belong to, of any number of channels.
    """
    of_colours = normalisation(model)
    mean, std = of_colours["mean"].view(1, -1, 1, 1), of_colours["std"].view(1, -1, 1, 1)
    state = dict(state)
    names = model.pretrained_cfg["first_conv"]
    for conv in (names,) if isinstance(names, str) else tuple(names):
        weight, bias = state[f"{conv}.weight"], state.get(f"{conv}.bias")
        if weight.shape[1] != mean.shape[1]:
            state[f"{conv}.weight"] = adapt_input_conv(1, weight)
            continue
        weight = weight / std
        if bias is not None:
            state[f"{conv}.bias"] = bias + (weight * (mean.mean() - mean)).sum((1, 2, 3))
        state[f"{conv}.weight"] = weight.sum(1, keepdim=True) * std.mean()
    return state


def normalisation(model: Any) -> dict[str, torch.Tensor]:
    """``mean`` and ``std`` (3,) that the model's pretraining normalised colours in [0, 1] by."""
    config = timm.data.resolve_model_data_config(model)
    return {key: torch.tensor(config[key]) for key in ("mean", "std")}
