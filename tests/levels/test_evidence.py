"""Probabilities summed over components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.levels.components import find_components, one_hot_shares
from cps4_monai.levels.evidence import mean_probabilities


@pytest.fixture
def case(spine, spacing):
    labels = spine()
    logits = np.random.default_rng(0).normal(size=(3, 20, *labels.shape[1:])).astype(np.float32)
    return labels, find_components(labels, spacing, MRSPINESEG, (1,)), logits


def test_means_equal_those_of_each_mask(case):
    labels, components, logits = case
    probabilities = softmax(logits, axis=1)
    means = mean_probabilities(components, probabilities, 20)
    whole = np.zeros(labels.shape, np.int32)
    whole[components.box] = components.ids
    for row in (0, len(components) - 1):
        expected = np.moveaxis(probabilities, 1, -1)[whole == row + 1].mean(axis=0)
        np.testing.assert_allclose(means[row], expected, rtol=1e-5)


def test_logits_tensors_and_generators_agree(case):
    _, components, logits = case
    expected = mean_probabilities(components, softmax(logits, axis=1), 20)
    for scores in (logits, torch.from_numpy(logits), (s for s in logits), list(torch.from_numpy(logits))):
        np.testing.assert_allclose(mean_probabilities(components, scores, 20, True), expected, atol=1e-6)
    half = mean_probabilities(components, torch.from_numpy(logits).half(), 20, True)
    np.testing.assert_allclose(half, expected, atol=1e-3)


def test_shares_of_labels_are_the_one_hot_evidence(case):
    labels, components, _ = case
    shares = one_hot_shares(components, labels[components.box])
    np.testing.assert_array_equal(shares.max(axis=1), 1.0)
    assert sorted(np.argmax(shares, axis=1).tolist()) == np.unique(labels)[1:].tolist()


def test_another_grid_and_number_of_slices_are_refused(case):
    _, components, logits = case
    with pytest.raises(ValueError, match="slice 0"):
        mean_probabilities(components, logits[:, :, 1:], 20)
    with pytest.raises(ValueError, match="2 slices"):
        mean_probabilities(components, logits[:2], 20)
    with pytest.raises(ValueError, match="finite"):
        mean_probabilities(components, logits * np.nan, 20)
