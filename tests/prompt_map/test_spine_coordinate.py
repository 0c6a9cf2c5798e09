"""Rows that follow the spine: straight, tilted and empty slices, and the way there and back."""

from __future__ import annotations

import torch

from cps4_monai.prompt_map.spine_coordinate import along_spine, from_rows, to_rows


def band(slope: float, rows: int = 40, columns: int = 30) -> torch.Tensor:
    """A spine of 8 pixels across whose centre moves by `slope` columns a row."""
    y, x = torch.arange(rows).float()[:, None], torch.arange(columns).float()
    return ((x - 15 - slope * (y - rows / 2)).abs() < 4).float()[None]


def test_a_straight_spine_keeps_the_rows_of_the_image():
    expected = torch.arange(40.0)[:, None].expand(40, 30)
    torch.testing.assert_close(along_spine(band(0.0))[0], expected, atol=1e-2, rtol=0)


def test_lines_run_across_a_tilted_spine():
    spine = band(0.3)
    place = along_spine(spine)[0]
    # Two pixels on a line perpendicular to the spine: 3 columns to the right is 0.9 rows up.
    torch.testing.assert_close(place[20, 15], place[19, 18], atol=0.15, rtol=0)
    assert (place[:, 20] - place[:, 10] > 2.5).all()


def test_nothing_seen_keeps_the_rows_and_is_finite():
    torch.testing.assert_close(along_spine(torch.zeros(2, 5, 4)), torch.arange(5.0).view(1, 5, 1).expand(2, 5, 4))


def test_each_slice_by_itself():
    both = torch.cat([band(0.3), band(-0.2)])
    torch.testing.assert_close(along_spine(both)[1:], along_spine(both[1:]))


def test_sums_over_lines_and_back():
    maps = torch.rand(1, 2, 6, 5)
    place = torch.arange(6.0).view(1, 6, 1).expand(1, 6, 5)
    rows = to_rows(maps, place)
    torch.testing.assert_close(rows, maps.sum(3))
    assert torch.equal(from_rows(rows, place), rows[..., None].expand(1, 2, 6, 5))


def test_lines_beyond_the_ends_go_to_the_ends():
    maps = torch.ones(1, 1, 3, 2)
    place = torch.tensor([[-4.0, -1.0], [1.0, 1.4], [2.6, 9.0]])[None]
    assert to_rows(maps, place).flatten().tolist() == [2.0, 2.0, 2.0]
