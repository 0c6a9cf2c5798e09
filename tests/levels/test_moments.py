"""Sizes and places of regions, held against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import regionprops

from cps4_monai.levels.moments import measure, weighted_median

SPACING = (4.0, 0.7, 1.3)


@pytest.mark.parametrize("count", [1, 7])
def test_moments_are_those_of_regionprops(count):
    ids = np.random.default_rng(count).integers(0, count + 1, (5, 12, 9))
    moments = measure(ids, count + 1, SPACING, origin=(1, 2, 3))
    assert moments.voxels[count] == 0 and np.isnan(moments.centroid_mm[count]).all()
    for region in regionprops(ids, spacing=SPACING):
        row = region.label - 1
        assert moments.volume_mm3[row] == pytest.approx(region.area)
        np.testing.assert_allclose(moments.centroid_mm[row], region.centroid + np.multiply((1, 2, 3), SPACING))
        inertia = region.inertia_tensor  # trace of the covariance, less the covariance
        covariance = np.trace(inertia) / 2 * np.eye(3) - inertia
        voxel = np.diag(np.square(SPACING[1:])) / 12
        np.testing.assert_allclose(moments.covariance_mm2[row], covariance[1:, 1:] + voxel, atol=1e-9)


def test_the_weighted_median_reaches_half_of_the_weight():
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.array([5.0, 1.0, 1.0])) == 3.0
    assert weighted_median(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == 1.0
    assert np.isnan(weighted_median(np.zeros(0), np.zeros(0)))
