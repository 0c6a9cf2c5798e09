"""Similarity supervised by uncertainty, and contrast with several positives, by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cps4_monai.losses.similarity_supervision import (
    Gaussian,
    compare,
    info_nce,
    semantic_uncertainty,
    supervised_similarity,
    uncertain_share,
)


def gaussian(count: int, dim: int = 6) -> Gaussian:
    return Gaussian(F.normalize(torch.randn(count, dim), dim=1), torch.randn(count, dim), torch.rand(count, dim) + 0.5)


@pytest.mark.parametrize(("uncertainty", "expected"), [(0.0, 0.5), (0.5, 0.5476), (2.0, 0.6648)])
def test_a_cosine_of_a_half_by_hand(uncertainty, expected):
    """D_s is 1 there, and lambda 0.2."""
    cosine = torch.tensor([[0.5]])
    similarity = supervised_similarity(cosine, uncertain_share(cosine, torch.tensor([[uncertainty]]), 0.2))
    assert similarity.item() == pytest.approx(expected, abs=5e-5)
    assert similarity.item() == pytest.approx(1 - 0.5 * math.exp(-0.2 * uncertainty), abs=1e-6)


def test_uncertainty_is_the_wasserstein_distance_of_the_gaussians_by_hand():
    first = Gaussian(torch.eye(2), torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.ones(2, 2))
    second = Gaussian(torch.eye(2)[:1], torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 3.0]]))
    assert semantic_uncertainty(first, second).tolist() == [[16.0 + 4.0], [9.0 + 16.0 + 4.0]]


def test_similarity_is_never_below_the_cosine_and_equals_it_where_nothing_is_uncertain():
    first, second = gaussian(40), gaussian(30)
    cosine = first.embedding @ second.embedding.T
    assert (compare(first, second, 0.2)[0] > cosine).all()
    assert torch.equal(compare(first, second, 0.0)[0], cosine)
    sure = second._replace(mu=first.mu[:1].expand(30, -1), sigma=first.sigma[:1].expand(30, -1))
    assert torch.equal(compare(first, sure, 0.2)[0][0], cosine[0]), "the same Gaussian: D_u is 0"


@pytest.mark.parametrize("certain", [True, False])
def test_a_perfect_pair_gives_1_and_finite_gradients(certain):
    mu, sigma = torch.randn(2, 4, requires_grad=True), torch.ones(2, 4)
    embedding = F.normalize(torch.randn(2, 4), dim=1).requires_grad_()
    first = Gaussian(embedding, mu, sigma)
    second = Gaussian(embedding.detach(), mu.detach() if certain else mu.detach() + 1, sigma)
    similarity, _ = compare(first, second, 0.2)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(2))
    similarity.sum().backward()
    assert embedding.grad.isfinite().all() and mu.grad.isfinite().all()


def test_equal_similarities_cost_the_logarithm_of_their_number():
    loss = info_nce(torch.full((8, 8), 0.3), torch.eye(8, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(8)) == pytest.approx(2.0794, abs=1e-4)


def test_equal_captions_share_the_mass_and_leave_no_gradient_where_both_are_found():
    similarity = torch.zeros(2, 2, requires_grad=True)
    loss = info_nce(similarity, torch.ones(2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and similarity.grad.abs().max() == 0


def test_with_one_positive_it_is_the_cross_entropy_at_that_temperature():
    similarity = torch.randn(5, 5)
    expected = F.cross_entropy(similarity / 0.5, torch.arange(5))
    torch.testing.assert_close(info_nce(similarity, torch.eye(5, dtype=torch.bool), 0.5), expected)


def test_columns_that_take_no_part_and_rows_without_a_positive_are_left_out():
    similarity = torch.randn(4, 4)
    kept = torch.tensor([True, True, False, True])
    own = torch.eye(4, dtype=torch.bool) & kept
    small = similarity[kept][:, kept]
    torch.testing.assert_close(info_nce(similarity, own, among=kept), info_nce(small, torch.eye(3, dtype=torch.bool)))
    nothing = info_nce(similarity.requires_grad_(), torch.zeros(4, 4, dtype=torch.bool), among=kept & ~kept)
    nothing.backward()
    assert nothing == 0 and similarity.grad.isfinite().all()
