"""Label maps in which 255 says that nobody annotated: reading, checking, resampling, augmentation, datalists."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.data.build_datalist import missing_classes
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.datasets import VolumeDataset
from cps4_monai.data.entries import Entry
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.volume import InvalidVolumeError, read_volume
from cps4_monai.evaluation.prompt_map import through_grid
from cps4_monai.preflight import check_validation_labels
from cps4_monai.transforms.slice_geometry import RandSliceGeometryd
from cps4_monai.transforms.volume_io import LoadVolumed

AFFINE = np.diag([-4.0, -1.0, -1.0, 1.0])


def save(path, array):
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def partly(path, dtype=np.uint8):
    label = np.zeros((2, 8, 8), dtype)
    label[:, 2:6, 2:4], label[:, :, 6:] = 3, 255
    return save(path, label)


def read(path, **settings):
    return read_volume(path, is_label=True, num_classes=20, **settings)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_255_is_read_where_a_label_map_may_be_partly_annotated(tmp_path, dtype):
    path = partly(tmp_path / "a.nii.gz", dtype)
    volume = read(path, partly_annotated=True)
    assert volume.array.dtype == np.uint8 and np.unique(volume.array).tolist() == [0, 3, 255]
    assert (LoadVolumed("label", num_classes=20)({"label": path})["label"] == 255).sum() == 32
    with pytest.raises(
        InvalidVolumeError, match=r"outside the table: 255; expected whole numbers from 0 to 19.*people"
    ):
        read(path)


def test_what_cannot_be_meant_is_named_with_its_fix(tmp_path):
    minus = save(tmp_path / "minus.nii", np.full((2, 3, 4), -1, np.int16))
    with pytest.raises(InvalidVolumeError, match=r"table: -1; expected .* or 255 where nobody annotated.*uint8"):
        read(minus, partly_annotated=True)
    high = save(tmp_path / "high.nii", np.full((2, 3, 4), 254, np.uint8))
    with pytest.raises(InvalidVolumeError, match="table: 254"):
        read(high, partly_annotated=True)
    nothing = save(tmp_path / "nothing.nii", np.full((2, 3, 4), 255, np.uint8))
    with pytest.raises(InvalidVolumeError, match=r"255 everywhere.*take the label out of the datalist"):
        read(nothing, partly_annotated=True)


def test_no_class_may_take_the_value():
    with pytest.raises(ValueError, match="expected at most 255"):
        Anatomy([Structure(code, str(code), str(code), "other") for code in range(256)])


def test_ignored_pixels_stay_ignored_on_the_network_grid(tmp_path):
    image = save(tmp_path / "a_T2w.nii.gz", np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32))
    cache = SliceCache(tmp_path / "cache", InPlane((12, 6), 0.8), num_classes=20)
    label = cache.label(partly(tmp_path / "a_dseg.nii.gz"), image).array
    assert set(np.unique(label)) == {0, 3, 255}
    # H runs along Z: row r of 0.8 mm lies at 3.5 + 0.8 (r - 5.5); rows 8 to 10 are nearest to Z = 6 or 7.
    assert np.flatnonzero((label == 255).any(axis=(0, 2))).tolist() == [8, 9, 10]
    assert not label[:, 11].any()  # outside the scan, where the picture is black: background


def test_augmentation_moves_ignored_pixels_like_codes():
    label = torch.zeros(1, 40, 40, dtype=torch.uint8)
    label[:, 10:20, 10:30], label[:, 20:30, 10:30] = 3, 255
    item = {"image": (label == 255).float(), "label": label}
    for seed in range(4):
        moved = RandSliceGeometryd(("image", "label"), affine_prob=1, elastic_prob=1).set_random_state(seed)(item)
        assert set(moved["label"].unique().tolist()) == {0, 3, 255}
        assert ((moved["image"] > 0.5) == (moved["label"] == 255)).float().mean() > 0.97
    flip = RandSliceGeometryd("label", affine_prob=0, elastic_prob=0, flip_prob=(1, 0)).set_random_state(0)
    assert torch.equal(flip(item)["label"], label.flip(1))


def test_255_is_no_class_of_a_datalist_and_nothing_to_validate_on(tmp_path):
    image = save(tmp_path / "a_T2w.nii.gz", np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32))
    entry = Entry(image, partly(tmp_path / "a_dseg.nii.gz"), "a")
    (warning,) = missing_classes(Datalist((entry,), (), ()), MRSPINESEG)
    assert warning.count("(") == 18 and "(L4)" not in warning
    empty = SimpleNamespace(image=image, label=tmp_path / "b_dseg.nii.gz", subject="b")
    codes = np.zeros((2, 8, 8), np.uint8)
    codes[:, :4] = 255
    save(empty.label, codes)
    cache = SliceCache(tmp_path / "cache", InPlane((8, 8)), num_classes=20)
    with pytest.raises(ValueError, match="no label of the 1 validation subjects"):
        check_validation_labels(VolumeDataset([empty], cache))
    check_validation_labels(VolumeDataset([entry], cache))


def test_the_ceiling_of_a_grid_is_made_of_annotated_pixels():
    label = torch.tensor([[1, 255, 255, 255], [255, 255, 255, 255], [0, 0, 2, 2], [0, 0, 2, 2]])[None, None]
    back = through_grid(label, (2, 2), num_classes=3)[0, 0]
    assert back[0, 0] == 1 and back[3, 0] == 0 and back[3, 3] == 2
