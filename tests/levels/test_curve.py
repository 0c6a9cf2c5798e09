"""The course of the spine."""

from __future__ import annotations

import numpy as np

from cps4_monai.levels.curve import SpineCurve


def test_a_straight_spine_is_walked_from_inferior_up():
    points = np.array([[200.0, 50.0], [160.0, 50.0], [120.0, 50.0], [80.0, 50.0]])
    arc, across, tangent = SpineCurve.fit(points, np.ones(4)).locate(points)
    np.testing.assert_allclose(np.diff(arc), 40.0, atol=0.01)
    np.testing.assert_allclose(across, 0.0, atol=1e-6)
    np.testing.assert_allclose(tangent, [[-1.0, 0.0]] * 4, atol=1e-6)


def test_places_beyond_the_ends_go_on_straight():
    points = np.array([[200.0, 50.0], [160.0, 50.0], [120.0, 50.0], [80.0, 50.0]])
    arc, across, _ = SpineCurve.fit(points, np.ones(4)).locate(np.array([[230.0, 55.0], [50.0, 50.0]]))
    np.testing.assert_allclose(arc, [-30.0, 150.0], atol=0.1)
    np.testing.assert_allclose(np.abs(across), [5.0, 0.0], atol=1e-3)


def test_arc_lengths_of_a_bow_are_right():
    angle = np.linspace(-0.6, 0.6, 13)
    points = np.stack([200.0 - 150.0 * np.sin(angle), 50.0 + 150.0 * np.cos(angle)], axis=-1)
    arc, across, _ = SpineCurve.fit(points, np.ones(13)).locate(points)
    np.testing.assert_allclose(arc - arc[0], 150.0 * (angle - angle[0]), rtol=0.02, atol=1.0)
    assert np.abs(across).max() < 2.0


def test_a_steeply_tilted_spine_keeps_its_order():
    along = np.arange(10) * 20.0
    for degrees in (-75, -45, 45, 75):
        direction = np.array([-np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        arc, _, _ = SpineCurve.fit(along[:, None] * direction, np.ones(10)).locate(along[:, None] * direction)
        np.testing.assert_allclose(np.diff(arc), 20.0, atol=0.01)


def test_an_outlier_does_not_bend_the_curve():
    points = np.stack([np.arange(12) * 20.0, np.full(12, 50.0)], axis=-1)
    wild = np.concatenate([points, [[110.0, 110.0]]])
    _, across, _ = SpineCurve.fit(wild, np.ones(13)).locate(points)
    assert np.abs(across).max() < 4.0


def test_one_point_and_none_have_a_curve_straight_up():
    arc, _, tangent = SpineCurve.fit(np.array([[10.0, 5.0]]), np.ones(1)).locate(np.array([[10.0, 5.0], [0.0, 5.0]]))
    np.testing.assert_allclose(np.diff(arc), 10.0, atol=0.01)
    np.testing.assert_allclose(tangent[0], [-1.0, 0.0])
    assert len(SpineCurve.fit(np.zeros((0, 2)), np.zeros(0)).locate(np.zeros((0, 2)))[0]) == 0
