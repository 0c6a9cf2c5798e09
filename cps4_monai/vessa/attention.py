"""Attention that torch computes fast on a CPU: without dropout of its weights, over tokens that lie together."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

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


class Attention(nn.MultiheadAttention):
    """Attention among tokens (B, n, width), which lie in memory as they are multiplied, (n, B, width).

    ``batch_first`` changes the order of the axes alone. Without gradients torch then multiplies slice by slice: in
    bfloat16 on a CPU fourteen times slower (torch 2.14, 4 slices, 216 and 649 tokens of 256 numbers).

    Args:
        width: of a token.
        heads: a divisor of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, absent: Tensor | None = None
    ) -> Tensor:
        """What the queries see in the values, (B, n, width).

        Args:
            query: (B, n, width).
            key: (B, m, width); may be the query.
            value: (B, m, width); may be the key.
            absent: (B, m) bool, tokens that are not there.
        """
        queries = turned(query)
        keys = queries if key is query else turned(key)
        values = keys if value is key else turned(value)
        return turned(super().forward(queries, keys, values, key_padding_mask=absent, need_weights=False)[0])


def turned(tokens: Tensor) -> Tensor:
    """(n, B, width) of tokens (B, n, width), or the reverse, in memory in that order."""
    return tokens.transpose(0, 1).contiguous()
