"""Heights and lordosis of shapes whose sizes are known."""

from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG, load_anatomy
from cps4_monai.data.phantom import subject
from cps4_monai.data.phantom.spine import draw_spine
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.inference.slice_statistics import slice_statistics
from cps4_monai.levels.morphometry import NOTHING
from cps4_monai.levels.statistics import structure_statistics

AFFINE = np.array([[4.0, 0, 0, -4], [0, 0, 0.5, -80], [0, -0.5, 0, 320], [0, 0, 0, 1]])
HEIGHTS = ("anterior_height_mm", "middle_height_mm", "posterior_height_mm")


def sizes(labels, affine=AFFINE):
    return {s.name: s.morphometry for s in structure_statistics(labels, affine, MRSPINESEG)}


def trapezoid(plane, name, centre, turn_deg, anterior, posterior, depth):
    """Paints a body of 0.5 mm pixels: its middle line turned so that posterior goes up, plates ``wedge`` apart."""
    h, w = np.mgrid[0 : plane.shape[0], 0 : plane.shape[1]] * 0.5
    turn = np.deg2rad(turn_deg)
    up, back = centre[0] - h, w - centre[1]
    x, y = np.cos(turn) * back + np.sin(turn) * up, np.cos(turn) * up - np.sin(turn) * back
    height = anterior + (posterior - anterior) * (x / depth + 0.5)
    plane[(np.abs(x) < depth / 2) & (np.abs(y) < height / 2)] = MRSPINESEG.code_of(name)


@pytest.fixture
def wedges():
    """S1's plate turned by 38 degrees, L5/S on it, L1 turned by -12: a wedge of 28 by 22 mm over 35 mm of depth."""
    plane = np.zeros((480, 320), np.uint8)
    trapezoid(plane, "S", (200.0, 90.0), 38.0, 30.0, 30.0, 34.0)
    trapezoid(plane, "L5/S", (182.0, 78.0), 34.0, 9.0, 6.0, 32.0)
    trapezoid(plane, "L5", (163.0, 68.0), 20.0, 25.0, 25.0, 34.0)
    trapezoid(plane, "L1", (50.0, 70.0), -12.0, 28.0, 22.0, 35.0)
    return np.repeat(plane[None], 3, axis=0)


def test_boxes_have_their_heights(spine):
    labels = np.pad(spine(), ((1, 1), (0, 0), (0, 0)))
    found = sizes(labels, np.diag([4.0, -1.0, 1.0, 1.0]))
    for name in ("L5", "L4", "L3", "L2", "L1"):
        assert [getattr(found[name], key) for key in HEIGHTS] == pytest.approx([24.0] * 3, abs=0.05)
        assert found[name].disc_height_mm is None and found[name].lordosis_deg is None
    for name in ("L5/S", "L4/L5", "L3/L4"):
        assert found[name].disc_height_mm == pytest.approx(8.0, abs=0.05)
        assert found[name].middle_height_mm is None


def test_a_turned_wedge_has_its_heights_and_a_disc_its_mean(wedges):
    found = sizes(wedges)
    assert [getattr(found["L1"], key) for key in HEIGHTS] == pytest.approx([28.0, 25.0, 22.0], abs=0.35)
    assert [getattr(found["L5"], key) for key in HEIGHTS] == pytest.approx([25.0] * 3, abs=0.35)
    assert found["L5/S"].disc_height_mm == pytest.approx(7.5, abs=0.2)


def test_lordosis_is_the_angle_between_both_plates(wedges):
    wedge = np.degrees(np.arctan2(3.0, 35.0))  # how far the upper plate of L1 is turned against its middle line
    assert sizes(wedges)["S"].lordosis_deg == pytest.approx(38.0 + 12.0 + wedge, abs=0.7)


def test_of_several_sacral_segments_the_topmost_bears_the_plate(wedges):
    table = MRSPINESEG.to_dict()
    for structure in table["structures"][1:]:
        structure["order"] += 1
    second = {"code": 20, "name": "S2", "long_name": "second sacral segment", "kind": "sacrum", "order": 0}
    anatomy = load_anatomy({**table, "structures": [*table["structures"], second]})
    plane = np.zeros(wedges.shape[1:], np.uint8)
    trapezoid(plane, "L5", (226.0, 112.0), 60.0, 18.0, 18.0, 24.0)
    labels = np.where((plane > 0) & (wedges == 0), 20, wedges).astype(np.uint8)
    found = {s.name: s.morphometry for s in structure_statistics(labels, AFFINE, anatomy)}
    assert found["S"].lordosis_deg == pytest.approx(sizes(wedges)["S"].lordosis_deg, abs=0.1)
    assert found["S2"].lordosis_deg is None


def test_lordosis_needs_l1_s1_and_what_lies_between(wedges):
    for missing in (("L1",), ("S",), ("L5", "L5/S")):
        labels = wedges.copy()
        labels[np.isin(labels, [MRSPINESEG.code_of(name) for name in missing])] = 0
        assert sizes(labels)["S"].lordosis_deg is None, missing


def test_what_the_view_cuts_has_no_size(wedges):
    labels = np.ascontiguousarray(wedges[:, 80:])  # the view begins within L1
    found = sizes(labels)
    assert found["L1"].middle_height_mm is None and found["S"].lordosis_deg is None
    assert found["L5"].middle_height_mm == pytest.approx(25.0, abs=0.35)
    below = np.ascontiguousarray(wedges[:, :440])  # and here it ends within the sacrum, whose plate is seen
    assert sizes(below)["S"].lordosis_deg == pytest.approx(sizes(wedges)["S"].lordosis_deg, abs=0.1)


def test_an_empty_map_and_slivers_have_no_sizes():
    labels = np.zeros((3, 40, 40), np.uint8)
    assert all(value == sizes(labels)["L5"] for value in sizes(labels).values())
    labels[1, 20, 18:21] = 2
    assert sizes(labels)["L5"].middle_height_mm is None


def test_the_phantoms_spine_is_measured_as_it_was_drawn(monkeypatch):
    monkeypatch.setattr(subject, "_bend", lambda rng, like, pixel_mm, grid_mm=8.0: 0.0 * like)
    spine = draw_spine(np.random.default_rng(1))
    phantom = subject.make_phantom(1, size=384, slices=3)
    grid = SagittalGrid.from_affine(phantom.label.shape, phantom.affine)
    slices = np.ascontiguousarray(grid.to_slices(phantom.label))
    found = {s.code: s.morphometry for s in slice_statistics(slices, grid, phantom.affine, MRSPINESEG)}
    lordosis = np.degrees(spine.disc_angle[:5].sum() + spine.vertebra_angle[:5].sum())
    assert found[1].lordosis_deg == pytest.approx(lordosis, abs=2.0)
    for level in range(5):
        body, disc = found[2 + level], found[11 + level]
        wedge = 0.5 * spine.depth[level] * spine.vertebra_angle[level]
        walls = spine.height[level] + wedge, spine.height[level] - wedge
        assert (body.anterior_height_mm, body.posterior_height_mm) == pytest.approx(walls, abs=1.2)
        assert body.middle_height_mm == pytest.approx(
            spine.height[level] * (1 - spine.endplate_concavity[level]), abs=0.4
        )
        domes = [spine.height[k] * spine.endplate_concavity[k] / 2 for k in (level - 1, level) if k >= 0]
        gap = spine.disc_height[level] + (1 - 0.8**2 / 3) * sum(domes)
        assert disc.disc_height_mm == pytest.approx(gap, abs=0.8)


@pytest.mark.parametrize(("height", "width"), [(0.8, 0.6), (1.0, 0.7), (1.2, 0.5)])
def test_pixels_that_are_not_square_measure_the_same(height, width):
    """A wedge of 24 by 28 mm over 34 mm of depth, tilted by 15 degrees; columns of whole pixels missed it by 5 mm."""
    errors = []
    for shift in np.linspace(0.0, 0.9, 4):
        h, w = np.mgrid[0:200, 0:240].astype(float)
        up, back = 60.0 + shift - h * height, w * width - 60.0 - shift
        turn = np.deg2rad(15.0)
        x, y = np.cos(turn) * back + np.sin(turn) * up, np.cos(turn) * up - np.sin(turn) * back
        body = (np.abs(x) < 17) & (np.abs(y) < 0.5 * (26 + 4 * x / 34))
        labels = np.repeat((body * MRSPINESEG.code_of("L3")).astype(np.uint8)[None], 3, axis=0)
        found = sizes(labels, np.diag([4.0, height, width, 1.0]))["L3"]
        errors.append([getattr(found, name) for name in HEIGHTS])
    errors = np.abs(np.array(errors) - [24.0, 26.0, 28.0])
    assert errors[:, 1].max() < 0.4 and errors.max() < 1.6


def test_all_vertebrae_in_one_class_are_no_body():
    labels = np.zeros((3, 200, 80), np.uint8)
    for row in (20, 60, 100):
        labels[:, row : row + 24, 20:54] = 1
        labels[:, row + 26 : row + 34, 20:54] = 2
    kinds = {"vertebrae": "vertebra", "discs": "disc"}
    structures = [
        {"code": code, "name": name, "long_name": name, "kind": kind}
        for code, (name, kind) in enumerate({"background": "background", **kinds}.items())
    ]
    found = structure_statistics(labels, np.diag([4.0, 1, 1, 1]), load_anatomy({"structures": structures}))
    assert [one.state for one in found] == ["present"] * 2 and {one.morphometry for one in found} == {NOTHING}
