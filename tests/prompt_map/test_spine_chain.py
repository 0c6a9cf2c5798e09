"""Chains along rows: equal to counting every chain, bounds, what a weight that speaks clearly gives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from cps4_monai.prompt_map.spine_chain import chain_marginals


def by_counting(weight: torch.Tensor, shortest: list[int], anchored: bool) -> torch.Tensor:
    """Marginals (K, H) of one slice, over every chain of segments written down one by one."""
    structures, rows = weight.shape
    marginals, total = torch.zeros(structures, rows, dtype=torch.float64), 0.0
    for first in range(1 if anchored else structures):
        for last in range(first, structures):
            for cuts in itertools.combinations(range(rows + 1), last - first + 2):
                lengths = [b - a for a, b in itertools.pairwise(cuts)]
                if any(n < shortest[first + i] for i, n in enumerate(lengths)):
                    continue
                parts = [(first + i, range(*pair)) for i, pair in enumerate(itertools.pairwise(cuts))]
                value = math.exp(sum(float(weight[k, h]) for k, part in parts for h in part))
                total += value
                for k, part in parts:
                    marginals[k, list(part)] += value
    return marginals / total


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("shortest", [[1, 1, 1], [2, 1, 3]])
def test_equals_a_sum_over_all_chains(shortest, anchored):
    weight = torch.randn(2, 3, 7)
    marginals = chain_marginals(weight, shortest, anchored)
    for slice_weight, found in zip(weight, marginals, strict=True):
        expected = by_counting(slice_weight, shortest, anchored)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_clear_weight_gives_one_chain():
    weight = torch.full((1, 3, 9), -20.0)
    for structure, rows in enumerate(([1, 2, 3], [4], [5, 6])):
        weight[0, structure, rows] = 20.0
    expected = (weight > 0).float()
    torch.testing.assert_close(chain_marginals(weight, [1, 1, 1]), expected, rtol=0, atol=1e-4)


def test_nothing_is_left_out():
    weight = torch.full((1, 3, 8), -3.0)
    weight[0, 0, :4] = weight[0, 2, 4:] = 9.0  # only the first and the third speak; the second must come between
    marginals = chain_marginals(weight, [1, 2, 1])
    assert marginals[0, 1].sum() > 1.99 and marginals[0, 1, 2:6].sum() > 1.99


def test_an_anchored_chain_begins_with_its_first_structure():
    weight = torch.full((1, 2, 6), -5.0)
    weight[0, 1, 2:] = 5.0
    assert chain_marginals(weight, [1, 1], anchored=True)[0, 0].sum() > 0.99
    assert chain_marginals(weight, [1, 1], anchored=False)[0, 0].sum() < 0.01


def test_long_rows_of_large_weights_stay_probabilities():
    marginals = chain_marginals(torch.randn(2, 19, 512) * 6, [8, 3] * 9 + [8])
    assert marginals.isfinite().all() and marginals.min() >= 0 and marginals.sum(1).max() <= 1 + 1e-2


def test_no_chain_fits_into_too_few_rows():
    assert not chain_marginals(torch.zeros(1, 2, 3), [4, 4]).any()
