"""`cps4 evaluate`, baseline and pictures of labels with voxels that nobody annotated (255)."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data.entries import Entry
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.volume import InvalidVolumeError
from cps4_monai.evaluation.case import evaluate_case
from cps4_monai.evaluation.matching import Case
from cps4_monai.evaluation.trivial_baseline import write_mean_label_maps
from cps4_monai.palette import structure_colours
from cps4_monai.report.overlay import blend_labels, mid_slice, structure_places
from cps4_monai.report.pictures import side_by_side, slice_rows
from cps4_monai.report.predictions import case_slab

AFFINE = np.diag([4.0, -1.0, -1.0, 1.0])


def save(path, array):
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def test_a_label_without_structures_has_no_levels_to_get_right(tmp_path):
    empty = save(tmp_path / "e_dseg.nii.gz", np.zeros((3, 16, 32), np.uint8))
    right = evaluate_case(empty, empty, MRSPINESEG, [1]).case["all_levels_right"]
    assert np.isnan(right)


@pytest.fixture
def files(tmp_path):
    label = np.zeros((3, 16, 32), np.uint8)
    label[:, 4:12, 20:26], label[:, 4:12, 12:18], label[:, :, :12] = 2, 3, 255
    pred = np.where(label == 255, 0, label).astype(np.uint8)
    pred[:, 4:12, 4:10] = 4  # L3, where nobody annotated
    return save(tmp_path / "a_dseg.nii.gz", label), save(tmp_path / "a_pred.nii.gz", pred)


def test_structures_beyond_the_annotation_are_neither_false_nor_missed(files):
    label, pred = files
    result = evaluate_case(pred, label, MRSPINESEG, [1])
    states = {row["name"]: row["state"] for row in result.structures}
    assert states["L5"] == states["L4"] == "ok" and set(states.values()) == {"ok", "absent"}
    assert result.case["dice_a"] == result.case["dice_b"] == result.case["dice_c"] == 1
    assert result.case["num_false"] == result.case["num_missed"] == 0 and result.case["all_levels_right"] == 1
    assert result.case["hd95_mm"] == 0


def test_a_prediction_that_holds_255_is_refused(files):
    label, _ = files
    with pytest.raises(InvalidVolumeError, match=r"outside the table: 255.*Fix: give each voxel a code"):
        evaluate_case(label, label, MRSPINESEG)


def test_the_trivial_baseline_takes_such_labels(files, tmp_path):
    label, _ = files
    image = save(tmp_path / "a_T2w.nii.gz", np.random.default_rng(0).normal(size=(3, 16, 32)).astype(np.float32))
    entry = Entry(image, label, "a")
    (path,) = write_mean_label_maps([entry], [entry], InPlane((32, 16)), tmp_path / "mean", 20)
    assert np.unique(np.asarray(nib.load(path).dataobj)).tolist() == [0, 2, 3]


def test_pictures_are_drawn_dark_there(files):
    label, pred = files
    slab = case_slab(Case("a", "a", label, pred))
    assert all(draw(slab).startswith(b"\x89PNG") for draw in (side_by_side, slice_rows))
    codes = np.zeros((4, 6), np.uint8)
    codes[:2], codes[2:, 1:3] = 255, 2
    drawn = blend_labels(np.full((4, 6), 0.5, np.float32), codes, structure_colours(MRSPINESEG))
    assert (drawn[:2] == 51).all() and (drawn[3, 5] == 127).all()
    assert structure_places(codes, 20)[2].tolist() == [2.5, 1, 2] and np.isnan(structure_places(codes, 20)).sum() == 57
    assert mid_slice(np.stack([codes, np.full_like(codes, 255), np.full_like(codes, 255)]), 3) == 0
