"""Extent of two regions that may be one structure."""

from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.levels.heights import structure_heights, union_covariance, union_heights
from cps4_monai.levels.moments import measure

KINDS = np.array(["disc", "disc", "vertebra", "vertebra"])
UPWARD = np.tile([1.0, 0.0], (4, 1))


def pairs(ids: np.ndarray) -> np.ndarray:
    moments = measure(ids, 4, (4.0, 1.0, 1.0))
    return union_heights(moments, KINDS, UPWARD, moments.centroid_mm[:, 1], np.arange(4))


@pytest.fixture
def ids() -> np.ndarray:
    ids = np.zeros((2, 80, 40), dtype=np.int32)
    ids[:, 0:8, 4:36] = 1  # a disc, 8 mm high
    ids[:, 38:40, 17:22] = 2  # remains of the next one, 30 mm below its lower face
    ids[:, 50:60, 4:36] = 3  # upper and lower part of one body, 24 mm high in all
    ids[:, 60:74, 4:36] = 4
    return ids


def test_remains_of_the_next_disc_are_as_far_away_as_they_are_however_light(ids):
    far = pairs(ids)
    assert far[0, 1] == far[1, 0] == pytest.approx(40.0, abs=0.01)
    moments = measure(ids, 4, (4.0, 1.0, 1.0))
    by_weight = structure_heights(union_covariance(moments, np.arange(4)), KINDS[None, :], UPWARD[None, :])
    assert by_weight[0, 1] < 25.0  # hardly more than a disc may have


def test_two_parts_of_a_body_are_as_high_as_the_body(ids):
    assert pairs(ids)[2, 3] == pytest.approx(24.0, abs=0.5)


def test_a_region_with_itself_is_as_high_as_it_is(ids):
    np.testing.assert_allclose(np.diag(pairs(ids)), [8.0, 2.0, 10.0, 14.0], atol=0.01)
