"""Contrast of embeddings whose similarity is supervised by uncertainty (DuSSS: Pan et al., AAAI 2025).

The formulas are those of the paper. Its public code computes the supervised similarity in the full objective and drops
it again, and shifts the uncertainty so far that every pair counts as equal; see docs/dusss.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cps4_monai.logits import NEVER
from cps4_monai.losses.whole_batch import whole_sum

_CLOSEST = 1e-6  # least distance of two embeddings, so that no quotient is 0 / 0


class Gaussian(NamedTuple):
    """An embedding and the diagonal Gaussian that says how sure it is.

    Attributes:
        embedding: (n, E), of length one.
        mu: mean (n, E).
        sigma: standard deviations (n, E), positive.
    """

    embedding: Tensor
    mu: Tensor
    sigma: Tensor


def semantic_uncertainty(first: Gaussian, second: Gaussian) -> Tensor:
    """D_u (n, m): squared 2-Wasserstein distance of each Gaussian to each, |mu_i - mu_j|^2 + |sigma_i - sigma_j|^2."""
    means = (first.mu[:, None] - second.mu[None]).square().sum(2)
    return means + (first.sigma[:, None] - second.sigma[None]).square().sum(2)


def uncertain_share(cosine: Tensor, uncertainty: Tensor, weight: float = 0.2) -> Tensor:
    """1 - exp(-weight D_u / D_s) in [0, 1]: the share of a pair's dissimilarity that its uncertainty takes away.

    Args:
        cosine: (n, m) in [-1, 1], of embeddings of length one, whose distance is D_s = sqrt(2 - 2 cos).
        uncertainty: D_u (n, m), 0 or more.
        weight: lambda, 0 or more.
    """
    distance = (2 - 2 * cosine).clamp(min=_CLOSEST**2).sqrt()
    return 1 - torch.exp(-weight * uncertainty / distance)


def supervised_similarity(cosine: Tensor, share: Tensor) -> Tensor:
    """sim' = 1 - (1 - cos) (1 - share): never below the cosine, and equal to it where no uncertainty is.

    With :func:`uncertain_share` it is the paper's 1 - (1 - cos) exp(-lambda D_u / D_s).
    """
    return cosine + (1 - cosine) * share


def compare(first: Gaussian, second: Gaussian, weight: float = 0.2) -> tuple[Tensor, Tensor]:
    """sim' of all pairs, and the :func:`uncertain_share` in it: (n, m) float32, whatever the caller's autocast."""
    with torch.autocast(first.mu.device.type, enabled=False):
        cosine = first.embedding @ second.embedding.T
        share = uncertain_share(cosine, semantic_uncertainty(first, second), weight)
        return supervised_similarity(cosine, share), share


def info_nce(similarity: Tensor, positives: Tensor, temperature: float = 0.07, among: Tensor | None = None) -> Tensor:
    """InfoNCE with any number of positives: cross-entropy of softmax(similarity / temperature) over each row.

    Equal mass on all positives of a row; a row without any is left out.

    Args:
        similarity: (n, m).
        positives: (n, m) bool.
        temperature: positive.
        among: (m,) bool, the columns that take part; all positives are among them. None: all columns.

    Returns:
        Scalar, float32: mean over the rows that have a positive, 0 where none has.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        logits = similarity.float() / temperature
        if among is not None:
            logits = logits.masked_fill(~among, NEVER)
        count = positives.sum(1)
        rows = -(logits.log_softmax(1) * positives).sum(1) / count.clamp(min=1)
        return whole_sum(rows.sum()) / whole_sum((count > 0).sum()).clamp(min=1)
