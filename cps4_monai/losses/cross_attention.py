"""Token-wise alignment of patches and words by the attention of each to the other (the CTA of MGCA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.logits import NEVER
from cps4_monai.losses.captions import mean_where


def cross_attention_alignment(
    words: Tensor, patches: Tensor, captions: Tensor, cells: Tensor, temperature: float = 0.1
) -> Tensor:
    """What a word attends to should be told apart from what the other words of its caption attend to, and the reverse.

    Word i of a slice attends to its patches, ``a_ij = softmax_j(cos(w_i, p_j) / t)``; what it sees is
    ``c_i = unit(sum_j a_ij p_j)``. The loss of the words is the cross-entropy of ``cos(w_i, c_k) / t`` over k and over
    i, with target i = k, mean over the words of the caption. That of the patches is the same with the parts exchanged.
    Words outside the caption and cells that do not count are left out in both directions. Nothing in it says where a
    class lies.

    Args:
        words: (C, E), of length one.
        patches: (B, E, P), of length one.
        captions: (B, C) bool, the words of each slice.
        cells: (B, P) bool, the patches that count.
        temperature: t.

    Returns:
        Scalar, float32: mean of both losses, then over the slices whose caption is not empty.
    """
    words, patches = words.float(), patches.float().transpose(1, 2)  # (C, E), (B, P, E)
    cosines = patches @ words.T / temperature  # (B, P, C)
    seen_by_words = _attended(cosines.transpose(1, 2), cells, patches)  # (B, C, E)
    seen_by_patches = _attended(cosines, captions, words)  # (B, P, E)
    of_words = _own_counterpart(words @ seen_by_words.transpose(1, 2) / temperature, captions)
    of_patches = _own_counterpart(patches @ seen_by_patches.transpose(1, 2) / temperature, cells)
    return mean_where((of_words + of_patches) / 2, captions.any(1))


def _attended(logits: Tensor, counted: Tensor, values: Tensor) -> Tensor:
    """unit(softmax(logits) values): logits (B, N, M), counted (B, M), values (B, M, E) or (M, E)."""
    weights = logits.masked_fill(~counted[:, None], NEVER).softmax(2)
    return F.normalize(weights @ values, dim=2)


def _own_counterpart(logits: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy (B,) of logits (B, N, N) with the diagonal, over columns and over rows, mean over what counts."""
    ways = [way.masked_fill(~counted[:, None], NEVER).log_softmax(2) for way in (logits, logits.transpose(1, 2))]
    own = torch.stack([-each.diagonal(dim1=1, dim2=2) for each in ways]).mean(0)
    return mean_where(own, counted)
