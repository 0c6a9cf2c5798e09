"""Otsu thresholds: against scikit-image, for all maps at once, in the degenerate cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from cps4_monai.prompt_map import otsu
from cps4_monai.prompt_map.otsu import otsu_threshold


def reference(maps: torch.Tensor) -> np.ndarray:
    """scikit-image in float64: in float32 its squared means overflow for large values."""
    return np.array([[threshold_otsu(one) for one in sample] for sample in maps.double().numpy()])


def bin_width(maps: torch.Tensor) -> np.ndarray:
    return ((maps.amax((2, 3)) - maps.amin((2, 3))) / 256).double().numpy()


@pytest.fixture(params=["cpu", "at_once"])
def both_ways(request, monkeypatch):
    """The path of the CPU, and the one of the GPU run on the CPU."""
    if request.param == "at_once":
        monkeypatch.setattr(otsu, "_count_map_by_map", otsu._count_at_once)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("scale", [1.0, -3.0, 1e-20, 1e30])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_agrees_with_scikit_image_within_one_bin(scale, offset):
    maps = (torch.randn(3, 4, 40, 30) + 4 * (torch.rand(3, 4, 40, 30) > 0.7) + offset) * scale
    thresholds = otsu_threshold(maps)
    assert thresholds.shape == (3, 4)
    assert (np.abs(thresholds.double().numpy() - reference(maps)) <= bin_width(maps) * 1.001).all()


@pytest.mark.usefixtures("both_ways")
def test_float64_maps_give_the_very_bins_of_scikit_image():
    maps = torch.rand(2, 5, 64, 48, dtype=torch.float64) ** 3 - 0.5
    np.testing.assert_allclose(otsu_threshold(maps).numpy(), reference(maps), rtol=1e-12)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-7.5, -7.25), (-1e30, 1e30), (1e30, 1.5e30), (0.1, 0.7)])
def test_two_valued_maps_give_the_mask_of_scikit_image(low, high):
    upper = torch.rand(2, 3, 20, 10) > 0.8
    upper[..., 0, 0] = True
    upper[..., 0, 1] = False
    maps = torch.where(upper, high, low)
    assert torch.equal(maps > otsu_threshold(maps)[..., None, None], upper)
    assert torch.equal(maps.double() > torch.from_numpy(reference(maps))[..., None, None], upper)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("value", [0.0, -3.7, 1e30, 0.1])
def test_constant_maps_leave_nothing_above(value):
    maps = torch.full((1, 2, 8, 8), value)
    thresholds = otsu_threshold(maps)
    assert (thresholds == maps[0, 0, 0, 0]).all()
    assert not (maps > thresholds[..., None, None]).any()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_empties_its_own_map_only(bad):
    maps = torch.rand(1, 2, 16, 16)
    alone = otsu_threshold(maps)
    maps[0, 0, 3, 3] = bad
    thresholds = otsu_threshold(maps)
    assert not (maps[0, 0] > thresholds[0, 0]).any()
    assert thresholds[0, 1] == alone[0, 1]


def test_threshold_worked_out_by_hand():
    # Bins of width 1 from 0 to 256: {0 x 3, 2 x 1 | 200 x 1, 256 x 1}; best split after bin 2, whose centre is 2.5.
    maps = torch.tensor([0.0, 0, 0, 2, 200, 256]).view(1, 1, 2, 3)
    assert otsu_threshold(maps).item() == pytest.approx(2.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_float32_out(dtype):
    maps = torch.randn(2, 3, 32, 32).to(dtype)
    thresholds = otsu_threshold(maps)
    assert thresholds.dtype == torch.float32
    assert torch.equal(thresholds, otsu_threshold(maps.float()))


@pytest.mark.parametrize("bins", [2, 16, 255])
def test_other_numbers_of_bins(bins):
    maps = torch.rand(1, 3, 30, 30, dtype=torch.float64)
    expected = [threshold_otsu(one, nbins=bins) for one in maps[0].numpy()]
    np.testing.assert_allclose(otsu_threshold(maps, bins)[0].numpy(), expected, atol=1.001 / bins)


def test_each_map_is_thresholded_by_itself():
    maps = torch.rand(3, 4, 16, 16)
    together = otsu_threshold(maps)
    assert torch.equal(together[1:2, 2:3], otsu_threshold(maps[1:2, 2:3]))


@pytest.mark.parametrize("maps", [torch.rand(4, 4), torch.ones(1, 1, 4, 4, dtype=torch.int64), torch.rand(1, 1, 0, 4)])
def test_other_shapes_and_types_are_refused(maps):
    with pytest.raises(ValueError, match=r"expected floats \(B, C, H, W\)"):
        otsu_threshold(maps)


def test_number_of_bins_out_of_range_is_refused():
    with pytest.raises(ValueError, match="bins is 300"):
        otsu_threshold(torch.rand(1, 1, 4, 4), bins=300)
