"""Central slices and half the in-plane resolution, by hand and against the derived real data."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.data.convert.crop import central_slices, halve_in_plane
from cps4_monai.data.datalist import load_datalist

SPLITS = Path(__file__).resolve().parents[2] / "docs" / "spider_splits.json"


def test_slices_about_the_canal_are_kept_where_they_lie():
    canal = np.zeros((9, 4, 4), bool)
    canal[5:8, 1, 1] = True  # centre: slice 6
    index, moved = central_slices(canal.shape, np.diag([-2.0, 1.0, 1.0, 1.0]), 5.0, canal)
    assert index == (slice(5, 8), slice(None), slice(None))
    np.testing.assert_allclose(moved[:3, 3], [-10.0, 0.0, 0.0])


@pytest.mark.parametrize(("width", "kept"), [(0.0, slice(4, 5)), (100.0, slice(0, 9))])
def test_without_a_canal_the_middle_counts(width, kept):
    assert central_slices((9, 4, 4), np.eye(4), width)[0][0] == kept


def test_of_two_middle_slices_one_is_kept():
    assert central_slices((14, 4, 4), np.eye(4), 0.0)[0][0] == slice(6, 7)


def test_the_slice_axis_is_found_by_the_affine():
    affine = np.array([[0, 0, 3.0, 7], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # third voxel axis: left to right
    index, moved = central_slices((5, 6, 8), affine, 6.0)
    assert index == (slice(None), slice(None), slice(3, 5)) and moved[0, 3] == 7 + 3 * 3.0


def test_a_negative_width_is_refused():
    with pytest.raises(ValueError, match="width_mm is -1"):
        central_slices((5, 6, 8), np.eye(4), -1)


def test_blocks_of_four_by_hand():
    image = np.array([[[1, 2, 9], [2, 5, 9], [0, 0, 9]]], np.uint8)  # mean 2.5; odd row and column are dropped
    label = np.array([[[3, 3, 0], [7, 7, 0], [0, 0, 0]]], np.uint8)
    small, codes, affine = halve_in_plane(image, np.diag([4.0, 0.5, 0.5, 1.0]), label)
    assert small.tolist() == [[[2]]] and small.dtype == np.uint8  # rounded to even
    assert codes.tolist() == [[[7]]]  # two of each: the larger
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [0, 0.25, 0.25, 1])
    np.testing.assert_allclose(np.diag(affine), [4, 1, 1, 1])


@pytest.mark.parametrize(
    ("block", "code"),
    [([1, 1, 2, 3], 1), ([5, 2, 5, 9], 5), ([1, 2, 9, 9], 9), ([4, 3, 2, 1], 4), ([6, 6, 6, 8], 6), ([0, 0, 4, 4], 4)],
)
def test_majority_of_four_codes(block, code):
    label = np.array(block, np.uint8).reshape(1, 2, 2)
    assert halve_in_plane(label, np.eye(4), label)[1].item() == code


def test_floats_are_not_rounded():
    assert halve_in_plane(np.array([[[0.0, 1.0], [0.0, 1.5]]], np.float32), np.eye(4))[0].item() == 0.625


def test_halving_gives_the_derived_volumes_voxel_for_voxel(spider_dir):
    full = sorted((spider_dir / "volumes_full").glob("*_T2w.nii.gz"))
    assert len(full) == 5
    for path in full:
        scans = [nib.load(p) for p in (path, path.with_name(path.name.replace("T2w", "dseg")))]
        image, label = (np.asarray(scan.dataobj) for scan in scans)
        small, codes, affine = halve_in_plane(image, scans[0].affine, label)
        expected = nib.load(spider_dir / "volumes" / path.name)
        np.testing.assert_array_equal(small, np.asarray(expected.dataobj))
        np.testing.assert_allclose(affine[:3, :3], expected.affine[:3, :3], atol=1e-6)
        derived = nib.load(spider_dir / "volumes" / path.name.replace("T2w", "dseg"))
        np.testing.assert_array_equal(codes, np.asarray(derived.dataobj))


def test_published_split_is_that_of_the_derived_data(spider_dir):
    ours, derived = (json.loads(path.read_text("utf-8")) for path in (SPLITS, spider_dir / "splits.json"))
    assert all(ours[key] == value for key, value in derived.items())
    for entry in (e for side in load_datalist(SPLITS, spider_dir).sides.values() for e in side):
        assert nib.load(entry.image).shape[0] == ours["slices"][entry.subject]
