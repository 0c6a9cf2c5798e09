"""Attention without dropout of its weights, which keeps torch from its fused kernels."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def attention_without_dropout(module: Module) -> Module:
    """The module, whose attentions drop none of their weights; what it drops elsewhere, it drops.

    Where weights are dropped, torch 2.14 computes all of them on a CPU, in float32 also under autocast: most of a step
    in which the patches of a picture look at those of three templates.

    Args:
        module: any; changed in place.
    """
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return module
