"""Percentile normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.data.normalise import percentile_window, scale_to_window


def normalised(array, *percentiles):
    return scale_to_window(array, percentile_window(array, *percentiles))


def test_percentiles_become_zero_and_one_and_the_rest_is_clipped():
    out = normalised(np.arange(-100, 101), 10, 90)
    assert (
        out.dtype == np.float32 and (out[:21] == 0).all() and (out[180:] == 1).all() and out[100] == pytest.approx(0.5)
    )


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6, 1e300])
def test_scale_and_offset_do_not_matter(scale):
    array = np.random.default_rng(0).normal(size=(4, 5, 6))
    np.testing.assert_allclose(normalised(array * scale), normalised(array), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_integers_do_not_overflow(dtype):
    array = np.array([np.iinfo(dtype).min, 0, np.iinfo(dtype).max]).astype(dtype)
    out = normalised(array, 0, 100)
    assert out[0] == 0 and out[-1] == 1 and (np.diff(out) >= 0).all()


def test_nearly_empty_and_constant_volumes():
    array = np.zeros(10000)
    array[0] = 3
    assert normalised(array).max() == 1
    assert (normalised(np.full(5, 7)) == 0).all()


@pytest.mark.parametrize(("lower", "upper"), [(50, 50), (-1, 99), (1, 101), (99, 1)])
def test_bad_percentiles_are_refused(lower, upper):
    with pytest.raises(ValueError, match="percentiles"):
        normalised(np.arange(5), lower, upper)
    with pytest.raises(ValueError, match="at least one"):
        normalised(np.zeros((0, 3)))
