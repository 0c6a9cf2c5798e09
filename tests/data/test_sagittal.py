"""Sagittal slices of any orientation, and the exact way back."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.label_upsampling import upsampled_argmax
from cps4_monai.data.sagittal import SagittalGrid

CANONICAL = nib.affines.from_matvec(np.diag([4.0, 0.8, 0.6]), [-9, -20, 30])
ALL_CODES = [
    "".join(side[i] for side, i in zip(axes, sides, strict=True))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for sides in itertools.product((0, 1), repeat=3)
]


def reoriented(array, affine, codes):
    transform = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    return nib.orientations.apply_orientation(array, transform), affine @ inv_ornt_aff(transform, array.shape)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -15, 10)])
def test_all_48_orientations_give_identical_slices_and_identical_restored_labels(degrees):
    affine = (
        nib.affines.from_matvec(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix(), [1, 2, 3]) @ CANONICAL
    )
    array = np.random.default_rng(0).random((5, 12, 10)).astype(np.float32)
    reference = SagittalGrid.from_affine(array.shape, affine)
    slices = reference.to_slices(array)
    in_plane = InPlane((8, 6), 1.1)
    network = in_plane.image(slices, reference.spacing_mm[1:])
    scores = np.random.default_rng(1).normal(size=(5, 3, 8, 6)).astype(np.float32)
    import torch

    back = [axis.inverse() for axis in in_plane.axis_maps((10, 12), reference.spacing_mm[1:])]
    labels = upsampled_argmax(torch.from_numpy(scores), *back).numpy()
    expected = reference.from_slices(labels)
    assert len(set(ALL_CODES)) == 48
    for codes in ALL_CODES:
        turned, turned_affine = reoriented(array, affine, codes)
        grid = SagittalGrid.from_affine(turned.shape, turned_affine)
        np.testing.assert_array_equal(grid.to_slices(turned), slices, err_msg=codes)
        np.testing.assert_allclose(grid.spacing_mm, reference.spacing_mm)
        np.testing.assert_array_equal(in_plane.image(grid.to_slices(turned), grid.spacing_mm[1:]), network)
        np.testing.assert_array_equal(grid.from_slices(labels), reoriented(expected, affine, codes)[0], err_msg=codes)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_a_single_slice_of_any_orientation_becomes_a_tensor(codes):
    array, affine = reoriented(np.arange(6.0, dtype=np.float32).reshape(1, 2, 3), CANONICAL, codes)
    slices = SagittalGrid.from_affine(array.shape, affine).to_slices(np.ascontiguousarray(array))
    assert torch.equal(InPlane(spacing_mm=None).image(slices, (0.6, 0.8)).flatten().sort().values, torch.arange(6.0))


def test_the_slices_run_left_to_right_top_superior_left_anterior():
    array = np.zeros((3, 4, 5))
    array[2, 3, 4] = 1  # in RAS: most right, most anterior, most superior
    slices = SagittalGrid.from_affine(array.shape, CANONICAL).to_slices(array)
    assert slices.shape == (3, 5, 4) and slices[2, 0, 0] == 1


def test_the_affine_of_the_slices_puts_voxels_where_the_scan_does():
    affine = reoriented(np.zeros((3, 4, 5)), CANONICAL, "PIL")[1]
    array = np.arange(60).reshape(4, 5, 3)
    grid = SagittalGrid.from_affine(array.shape, affine)
    where_slices = np.argwhere(grid.to_slices(array) == 17)[0]
    where = np.argwhere(array == 17)[0]
    np.testing.assert_allclose(
        nib.affines.apply_affine(grid.slices_affine(affine), where_slices), nib.affines.apply_affine(affine, where)
    )


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
)
def test_the_way_back_is_exact_for_any_rotation(shape, angles, spacing):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    array = np.arange(np.prod(shape)).reshape(shape)
    grid = SagittalGrid.from_affine(shape, affine)
    np.testing.assert_array_equal(grid.from_slices(grid.to_slices(array)), array)
    assert sorted(grid.spacing_mm) == pytest.approx(sorted(spacing))


@pytest.mark.parametrize(
    ("spacing", "name"), [((0.5, 0.5, 4), "superior-inferior"), ((0.5, 4, 0.5), "anterior-posterior")]
)
def test_other_acquisitions_are_warned_about_and_sliced_sagittally(spacing, name):
    grid = SagittalGrid.from_affine((20, 20, 20), np.diag([*spacing, 1]))
    assert name in grid.warnings[0] and grid.axes == (0, 2, 1)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (4, 0.5, 0.5), (0.9, 0.9375, 0.9375)])
def test_sagittal_and_isotropic_scans_raise_no_warning(spacing):
    assert SagittalGrid.from_affine((20, 20, 20), np.diag([*spacing, 1])).warnings == ()


def test_other_shapes_and_singular_affines_are_refused():
    grid = SagittalGrid.from_affine((3, 4, 5), CANONICAL)
    with pytest.raises(ValueError, match="expected"):
        grid.to_slices(np.zeros((4, 3, 5)))
    with pytest.raises(ValueError, match="expected"):
        grid.from_slices(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="singular"):
        SagittalGrid.from_affine((3, 4, 5), np.diag([1.0, 0, 1, 1]))
