"""Shared prototypes of two modalities: balanced assignment, and each modality predicting the other's (SwAV, MGCA)."""

from __future__ import annotations

import torch
from torch import Tensor

from cps4_monai.losses.captions import mean_where


@torch.no_grad()
def sinkhorn(scores: Tensor, counted: Tensor, epsilon: float = 0.05, rounds: int = 3) -> Tensor:
    """Assignment of samples to prototypes that uses all prototypes alike (Cuturi 2013, as in SwAV, NeurIPS 2020).

    ``exp(scores / epsilon)``, scaled by turns so that every prototype has the same mass and every sample the mass 1. In
    float32: at epsilon 0.05 half precision underflows.

    Args:
        scores: (N, K), cosines of samples and prototypes.
        counted: (N,) bool; the other samples take no mass.
        epsilon: the smaller, the closer to a choice of one.
        rounds: of scaling.

    Returns:
        Q (N, K) float32 without gradient; rows sum up to 1, those that do not count to 0.
    """
    scores = scores.float()
    tiny = torch.finfo(torch.float32).tiny
    q = torch.exp((scores - scores.amax()) / epsilon) * counted[:, None]
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True).clamp(min=tiny)
        q = q / q.sum(1, keepdim=True).clamp(min=tiny)
    return q


def swapped_prediction(
    first: Tensor, second: Tensor, targets: tuple[Tensor, Tensor], counted: Tensor, temperature: float = 0.2
) -> Tensor:
    """Cross-entropy of each modality's softmax over the prototypes with the other's assignment, mean of both.

    Args:
        first: (B, K) scores of one modality.
        second: (B, K) scores of the other one.
        targets: Q (B, K) of the first and of the second.
        counted: (B,) bool, the pairs that take part.
        temperature: of the softmax.
    """
    of_first, of_second = targets
    from_first = -(of_second * (first.float() / temperature).log_softmax(1)).sum(1)
    from_second = -(of_first * (second.float() / temperature).log_softmax(1)).sum(1)
    return mean_where((from_first + from_second) / 2, counted)
