"""The network's in-plane grid: nothing is shifted, nothing aliases, and the way back is the same geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.label_upsampling import upsampled_argmax
from cps4_monai.data.resampling import AxisMap


def blob(hw, centre_mm, spacing_mm, radius_mm=12.0):
    """Disc of scores about a place in mm from the slice's centre."""
    y, x = (((torch.arange(n) - (n - 1) / 2) * mm) for n, mm in zip(hw, spacing_mm, strict=True))
    return radius_mm - torch.hypot(y[:, None] - centre_mm[0], x[None] - centre_mm[1])


def restored(in_plane, logits, hw, spacing):
    """Labels on the scan's pixels (D, H0, W0), every pixel interpolated from the network's (D, C, H, W)."""
    return upsampled_argmax(logits, *(axis.inverse() for axis in in_plane.axis_maps(hw, spacing)))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (40, 32), "spacing_mm": 2.0},
        {"spacing_mm": 1.7},
        {"size": (100, 90), "spacing_mm": 0.7},
        {"spacing_mm": 0.35},
        {"size": (33, 21), "mode": "central_half"},
    ],
)
def test_a_ramp_keeps_its_place(settings):
    hw, spacing = (80, 63), (0.9, 1.1)
    in_plane = InPlane(**settings)
    height, width = in_plane.axis_maps(hw, spacing)
    y, x = (torch.arange(n, dtype=torch.float32) for n in hw)
    ramp = (2 * y[:, None] + 3 * x[None])[None]
    got = in_plane.image(ramp, spacing)[0]
    expected = 2 * height.positions()[:, None] + 3 * width.positions()[None]
    # Within two steps of the border the widened kernel is cut off on one side.
    deep_y = (height.positions() >= 2 * height.step) & (height.positions() <= hw[0] - 1 - 2 * height.step)
    deep_x = (width.positions() >= 2 * width.step) & (width.positions() <= hw[1] - 1 - 2 * width.step)
    deep = deep_y[:, None] & deep_x[None]
    assert deep.any()
    torch.testing.assert_close(got[deep], expected.float()[deep], atol=1e-3, rtol=0)


def test_a_blob_there_and_back_stays_within_a_tenth_of_a_pixel():
    hw, spacing = (161, 120), (0.5, 0.6)
    score = blob(hw, (6.3, -4.1), spacing)
    in_plane = InPlane((64, 64), 1.5)
    network = in_plane.image(score[None], spacing)
    back = restored(in_plane, torch.stack([-network, network], dim=1), hw, spacing)[0]
    truth = score > 0
    centre = [(axis.float().mean()).item() for axis in back.nonzero(as_tuple=True)]
    expected = [(axis.float().mean()).item() for axis in truth.nonzero(as_tuple=True)]
    assert np.abs(np.subtract(centre, expected)).max() < 0.1
    assert 2 * (truth & (back > 0)).sum() / (truth.sum() + back.sum()) > 0.99


def test_shrinking_is_antialiased():
    stripes = (torch.arange(64) % 2).float().expand(1, 64, 64)
    assert InPlane(spacing_mm=4.0).image(stripes, (1, 1))[0, 2:-2, 2:-2].sub(0.5).abs().max() < 0.05


def test_the_same_grid_changes_nothing_and_padding_is_zero():
    slices = torch.rand(2, 10, 12)
    torch.testing.assert_close(InPlane().image(slices, (0.7, 0.9)), slices)
    padded = InPlane((14, 16), 1.0).image(slices, (1, 1))
    torch.testing.assert_close(padded[:, 2:-2, 2:-2], slices)
    assert padded.sum() == pytest.approx(slices.sum().item(), rel=1e-5)


def test_central_half_is_resized_to_the_size():
    slices = torch.zeros(1, 32, 64)
    slices[:, :, 16:48] = 1
    out = InPlane((16, 8), mode="central_half").image(slices, (1, 1))
    assert out.shape == (1, 16, 8) and out[:, :, 1:-1].min() > 0.999
    back = InPlane((16, 8), mode="central_half").restore_label(
        torch.ones(1, 16, 8, dtype=torch.uint8), (32, 64), (1, 1)
    )
    assert torch.equal(back[0, 0].nonzero()[:, 0], torch.arange(16, 48))


def test_labels_keep_their_codes_and_type():
    label = torch.randint(0, 20, (2, 30, 20), dtype=torch.uint8)
    in_plane = InPlane((60, 40), 0.5)
    big = in_plane.label(label, (1, 1))
    assert big.dtype == torch.uint8 and torch.equal(big, label.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(in_plane.restore_label(big, (30, 20), (1, 1)), label)


@pytest.mark.parametrize("size", [None, (60, 84)])
@pytest.mark.parametrize("step", [0.4, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
@pytest.mark.parametrize("width", [8, 9, 11])
def test_a_label_stays_where_it_was(step, width, size):
    """A border is rounded to a network pixel; over all places that it can have, to neither side.

    The nearest pixel, of two equally near always the upper one, moved every label by half a pixel at a step of 2.
    """
    start = torch.arange(6, 66)[:, None]
    rows = (torch.arange(85) >= start) & (torch.arange(85) < start + width)  # 60 places of one structure
    in_plane = InPlane(size if step >= 1 else None, 1.0)
    spacing = (1.0, 1.0 / step)
    positions = in_plane.axis_maps((60, 85), spacing)[1].positions()
    moved = in_plane.label(rows[None].to(torch.uint8) * 7, spacing)[0] == 7
    centre = (moved * positions).sum(dim=1) / moved.sum(dim=1)
    off = centre - (start[:, 0] + (width - 1) / 2)
    assert abs(off.mean()) < 0.02 * step and off.abs().max() <= 0.5 * step + 1e-3
    assert abs((moved.sum(dim=1) * step).float().mean() - width) <= step  # both borders in the middle of a pixel


@pytest.mark.parametrize("step", [2.0, 3.0, 4.0])
def test_a_mirrored_label_map_becomes_the_mirrored_one(step):
    """Three codes in blocks of four pixels, whose borders may lie in the middle of a network pixel."""
    label = torch.randint(0, 4, (3, 12, 10), dtype=torch.uint8).repeat_interleave(4, 1).repeat_interleave(4, 2)
    label[label == 3] = 255
    in_plane = InPlane(spacing_mm=step)
    moved = in_plane.label(label, (1, 1))
    assert set(moved.unique().tolist()) <= {0, 1, 2, 255}
    for axes in ([1], [2], [1, 2]):
        assert torch.equal(in_plane.label(label.flip(axes), (1, 1)), moved.flip(axes))


def test_of_equal_shares_the_smaller_structure_wins():
    """One column of pixels, step 2, worked out by hand: each network pixel lies between two of the scan's."""
    column = torch.tensor([0, 0, 0, 2, 2, 2, 2, 5, 5, 2, 2, 2, 2, 0, 0, 0], dtype=torch.uint8)
    label = column[None, :, None].expand(1, 16, 4).contiguous()
    got = InPlane(spacing_mm=2.0).label(label, (1, 1))[0, :, 0].tolist()
    assert got == [0, 2, 2, 5, 5, 2, 2, 0]


def test_a_border_in_the_middle_of_a_pixel_is_not_moved_to_one_side():
    vertebra_on_top = torch.zeros(1, 8, 8, dtype=torch.uint8)
    vertebra_on_top[:, :3] = 2
    at_the_bottom = vertebra_on_top.flip(1)
    in_plane = InPlane(spacing_mm=2.0)
    assert [int((in_plane.label(label, (1, 1)) == 2).sum()) for label in (vertebra_on_top, at_the_bottom)] == [8, 8]


@pytest.mark.parametrize("hw", [(64, 48), (16, 12), (1, 1), (50, 7)])
def test_restoring_equals_interpolating_everything(hw):
    logits = torch.randn(3, 5, 16, 12)
    in_plane = InPlane((16, 12), 64.0 / hw[0] * 1.0)
    spacing = (16 * in_plane.spacing_mm / hw[0], 12 * in_plane.spacing_mm / hw[1])
    dense = F.interpolate(logits, size=hw, mode="bilinear", align_corners=False).argmax(dim=1).to(torch.uint8)
    assert torch.equal(restored(in_plane, logits, hw, spacing), dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_restoring_takes_any_floating_type(dtype):
    logits = torch.zeros(1, 3, 8, 8, dtype=dtype)
    logits[:, 2] = 1
    assert (restored(InPlane((8, 8), 1.0), logits, (8, 8), (1, 1)) == 2).all()


def test_outside_the_crop_is_background():
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 2] = 1
    out = restored(InPlane((8, 8), 1.0), logits, (12, 10), (1, 1))[0]
    assert (out[2:-2, 1:-1] == 2).all() and out.sum() == 2 * 64


@pytest.mark.parametrize(
    "settings",
    [{"size": (0, 4)}, {"spacing_mm": -1}, {"mode": "x"}, {"mode": "central_half"}, {"spacing_mm": float("nan")}],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected|give size"):
        InPlane(**settings)


def test_settings_survive_a_dictionary():
    for in_plane in (InPlane((4, 5), 1.5), InPlane(), InPlane((4, 5), mode="central_half")):
        assert InPlane.from_dict(in_plane.to_dict()) == in_plane


def test_an_axis_map_and_its_inverse_cancel():
    axis = AxisMap(30, 12, 1.3, 2.2)
    there = axis.start + axis.step * (axis.inverse().start + axis.inverse().step * torch.arange(30.0))
    torch.testing.assert_close(there, torch.arange(30.0))


def test_slices_of_one_geometry_share_their_weights():
    axis, other = AxisMap(448, 300, 0.1, 1.5), AxisMap(448, 300, 0.1, 1.6)
    assert AxisMap(448, 300, 0.1, 1.5).linear_matrix() is axis.linear_matrix()
    assert not torch.equal(other.linear_matrix(), axis.linear_matrix())
