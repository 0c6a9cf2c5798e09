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
    """Attention of tokens (B, n, width), of which the first axis of what is multiplied is the token's.

    With ``batch_first`` torch only turns the axes, and multiplies what is turned slice by slice where no gradient is
    kept: in bfloat16 on a CPU fourteen times slower (torch 2.14, 4 slices, 216 and 649 tokens of 256 numbers).

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
            key: (B, m, width).
            value: (B, m, width); may be the key.
            absent: (B, m) bool, tokens that are not there.
        """
        turned = tokens_first(key)
        values = turned if value is key else tokens_first(value)
        answer, _ = super().forward(tokens_first(query), turned, values, key_padding_mask=absent, need_weights=False)
        return slices_first(answer)


def tokens_first(tokens: Tensor) -> Tensor:
    """(n, B, width) of tokens (B, n, width), in memory in that order."""
    return tokens.transpose(0, 1).contiguous()


def slices_first(tokens: Tensor) -> Tensor:
    """(B, n, width) of tokens (n, B, width), in memory in that order."""
    return tokens.transpose(0, 1).contiguous()
