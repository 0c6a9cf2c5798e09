"""All ways at once of laying an ordered chain of structures along a line of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = -1e4


def chain_marginals(weight: Tensor, shortest: Sequence[int], anchored: bool = True) -> Tensor:
    """Probability of each row to belong to each structure, over all chains.

    A chain is a row of neighbouring segments, one for each of the structures k, k+1, ..., m, in this order and without
    a gap, each at least as long as `shortest` says; rows before and behind it belong to none. Its log weight is the sum
    over its rows of the weight of their structure. This is a hidden semi-Markov model; its forward and backward passes
    step through the structures, all rows and slices at once (``logcumsumexp`` over the start of a segment).

    Args:
        weight: (B, K, H) float32, log weight of row h within structure k, relative to lying in none.
        shortest: K numbers of rows, 1 to H.
        anchored: every chain starts with structure 0; False: with any.

    Returns:
        (B, K, H) in [0, 1]; summed over K it is the probability that a row lies in the chain. All 0 where no chain is
        short enough for the rows.
    """
    summed = F.pad(weight.cumsum(2), (1, 0))  # (B, K, H + 1), at the boundaries between rows
    first = [0.0 if index == 0 or not anchored else _NEVER for index in range(weight.shape[1])]
    begins, ends = _pass(summed, list(shortest), first)
    # The same from the other end: states and rows reversed; a chain may end with any structure.
    turned = (summed[:, :, -1:] - summed.flip(2)).flip(1)
    after, onwards = (part.flip(1).flip(2) for part in _pass(turned, list(shortest)[::-1], [0.0] * len(first)))
    total = ends.flatten(1).logsumexp(1)[:, None, None]  # of all chains, each counted where it ends
    started = (begins + onwards - total).exp().cumsum(2)[..., :-1]
    ended = (ends + after - total).exp().cumsum(2)[..., :-1]
    possible = total > _NEVER / 2
    return torch.where(possible, (started - ended).clamp(0.0, 1.0), 0.0)


def _pass(summed: Tensor, shortest: list[int], first: list[float]) -> tuple[Tensor, Tensor]:
    """Log weights (B, K, H + 1) of all that lies before structure k beginning at a boundary, and up to it ending there.

    Args:
        summed: (B, K, H + 1) cumulative weight of the rows before each boundary.
        shortest: K numbers of rows.
        first: log weight of a chain that starts with each structure.
    """
    begins: list[Tensor] = []
    ends: list[Tensor] = []
    boundaries = summed.shape[2]
    for index, (least, start) in enumerate(zip(shortest, first, strict=True)):
        begin = torch.full_like(summed[:, index], start)
        if ends:
            begin = torch.logaddexp(begin, ends[-1])
        reached = torch.logcumsumexp(begin - summed[:, index], dim=1)
        reached = F.pad(reached, (least, 0), value=_NEVER)[:, :boundaries]
        begins.append(begin)
        ends.append((reached + summed[:, index]).clamp(min=_NEVER))
    return torch.stack(begins, dim=1), torch.stack(ends, dim=1)
