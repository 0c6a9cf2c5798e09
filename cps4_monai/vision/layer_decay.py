"""Learning rates of encoders that start from trained weights: lower towards the input, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn


def pretrained_groups(
    encoders: Iterable[Any],
    learning_rate: float,
    layer_decay: float = 1.0,
    following: Iterable[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Groups for an optimiser of all pretrained parameters that can be trained.

    Args:
        encoders: each with its ``blocks``, from the input on, which are asked for under a layer decay only.
        learning_rate: of the last blocks and of what follows them.
        layer_decay: in (0, 1]; each block learns at this multiple of the next block's rate, the embeddings at the
            lowest (Clark et al., ELECTRA, ICLR 2020; He et al., CVPR 2022, for ViTs). 1: all alike, in one group.
        following: parameters of trained parts that follow the encoders, such as a decoder: at the last blocks' rate.

    Returns:
        Groups with ``params``, ``lr`` and ``name``: "pretrained", or with a layer decay "pretrained 0", the last block,
        "pretrained 1", ... towards the input. Empty where nothing is pretrained.

    Raises:
        ValueError: a layer decay outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay is {layer_decay}; expected a number above 0, at most 1 (no decay)")
    levels: dict[int, list[nn.Parameter]] = {}
    for encoder in encoders:
        for parameter, level in _levels_from_the_end(encoder, layered=layer_decay < 1):
            levels.setdefault(level, []).append(parameter)
    if after := [p for p in following if p.requires_grad]:
        levels.setdefault(0, []).extend(after)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay**level,
            "name": "pretrained" if layer_decay == 1 else f"pretrained {level}",
        }
        for level, parameters in sorted(levels.items())
    ]


def _levels_from_the_end(encoder: Any, layered: bool) -> Iterator[tuple[nn.Parameter, int]]:
    """Trainable parameters with the number of blocks between them and the output; 0 for all where not ``layered``.

    What is registered before the blocks embeds their input, what is registered after them follows the last one.
    """
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    if not layered:
        yield from ((p, 0) for p in trainable)
        return
    blocks = list(encoder.blocks.children())
    block_of = {id(p): index for index, block in enumerate(blocks) for p in block.parameters()}
    begun = False
    for parameter in trainable:
        begun = begun or id(parameter) in block_of
        index = block_of.get(id(parameter), len(blocks) - 1 if begun else -1)
        yield parameter, len(blocks) - 1 - index
