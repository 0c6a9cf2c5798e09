"""Slices and volumes as data sets."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import cps4_monai.data.volume as volume_module
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datasets import SliceDataset, VolumeDataset
from cps4_monai.data.in_plane import InPlane
from cps4_monai.transforms.augmentation import labeled_augmentation
from cps4_monai.transforms.slice_geometry import RandSliceGeometryd


@pytest.fixture
def entries(tmp_path):
    random = np.random.default_rng(0)
    made = []
    for i, depth in enumerate((3, 1, 4)):
        image, label = tmp_path / f"{i}_T2w.nii", tmp_path / f"{i}_dseg.nii"
        affine = np.diag([4.0, -1, -1, 1])
        nib.save(nib.Nifti1Image(random.normal(size=(depth, 20, 24)).astype(np.float32), affine), image)
        nib.save(nib.Nifti1Image(random.integers(0, 5, (depth, 20, 24), dtype=np.uint8), affine), label)
        made.append(SimpleNamespace(image=image, label=label, subject=f"s{i}"))
    return made


@pytest.fixture
def cache(tmp_path):
    return SliceCache(tmp_path / "cache", InPlane((24, 20), 1.0))


def test_every_slice_of_every_volume_is_an_item(entries, cache):
    dataset = SliceDataset(entries, cache)
    assert [(i["subject"], i["slice_index"], i["slice_id"]) for i in (dataset[n] for n in range(len(dataset)))] == [
        ("s0", 0, 0),
        ("s0", 1, 1),
        ("s0", 2, 2),
        ("s1", 0, 3),
        ("s2", 0, 4),
        ("s2", 1, 5),
        ("s2", 2, 6),
        ("s2", 3, 7),
    ]
    item = dataset[5]
    assert item["image"].shape == item["label"].shape == (1, 24, 20)
    assert item["image"].dtype == torch.float32 and item["label"].dtype == torch.uint8
    with pytest.raises(IndexError):
        dataset[8]


def test_dicts_of_paths_do_instead_of_entries(entries, cache):
    dicts = [{"image": str(e.image), "label": str(e.label)} for e in entries]
    given, same = SliceDataset(dicts, cache), SliceDataset(entries, cache)
    assert torch.equal(given[3]["label"], same[3]["label"]) and given[3]["subject"] == "1"
    assert len(VolumeDataset([{"image": dicts[0]["image"]}], cache, labeled=False)) == 1
    with pytest.raises(ValueError, match=r"T2w\.nii: has no label \(1 such scans"):
        SliceDataset([{"image": dicts[0]["image"]}], cache)
    with pytest.raises(ValueError, match=r"keys \['img'\]; expected 'image'"):
        SliceDataset([{"img": "a.nii"}], cache)
    with pytest.raises(ValueError, match="list of volumes is empty"):
        VolumeDataset([], cache)


def test_labels_of_unlabeled_entries_are_never_opened(entries, cache, monkeypatch):
    opened = []
    real = volume_module.open_nifti
    monkeypatch.setattr(volume_module, "open_nifti", lambda path: (opened.append(path.name), real(path))[1])
    for entry in entries:
        entry.label.chmod(0)
    dataset = SliceDataset(entries, cache, labeled=False)
    assert all("label" not in dataset[n] for n in range(len(dataset)))
    VolumeDataset(entries, cache, labeled=False)[0]
    assert sorted(opened) == ["0_T2w.nii", "1_T2w.nii", "2_T2w.nii"]


def test_a_draw_is_a_function_of_its_seed(entries, cache):
    dataset = SliceDataset(entries, cache, labeled_augmentation())
    one, again, other = dataset.draw(2, 7), dataset.draw(2, 7), dataset.draw(2, 8)
    assert torch.equal(one["image"], again["image"]) and torch.equal(one["label"], again["label"])
    assert not torch.equal(one["image"], other["image"])


def test_the_grid_warps_the_unaugmented_slice_into_the_augmented_one(entries, cache):
    plain = SliceDataset(entries, cache, labeled=False, with_grid=True)
    moved = SliceDataset(
        entries,
        cache,
        RandSliceGeometryd(("image", "label"), affine_prob=1, elastic_prob=1),
        labeled=False,
        with_grid=True,
    )
    item, start = moved.draw(4, 3), plain[4]
    warped = F.grid_sample(start["image"][None], item["grid"][None], align_corners=False)[0]
    torch.testing.assert_close(warped, item["image"])
    identity = F.grid_sample(start["image"][None], start["grid"][None], align_corners=False)[0]
    torch.testing.assert_close(identity, start["image"], atol=1e-4, rtol=0)
    assert "grid" not in SliceDataset(entries, cache, RandSliceGeometryd(("image", "label")), labeled=False)[0]


def test_whole_volumes(entries, cache):
    item = VolumeDataset(entries, cache)[2]
    assert item["image"].shape == item["label"].shape == (1, 4, 24, 20) and item["subject"] == "s2"
    torch.testing.assert_close(item["spacing_mm"], torch.tensor([4.0, 1.0, 1.0]))


@pytest.mark.parametrize("kind", [SliceDataset, VolumeDataset])
def test_empty_lists_and_missing_labels_are_refused(entries, cache, kind):
    with pytest.raises(ValueError, match="empty"):
        kind([], cache)
    entries[1].label = None
    with pytest.raises(ValueError, match=r"1_T2w\.nii: has no label \(1 such scans"):
        kind(entries, cache)
    kind(entries, cache, labeled=False)
