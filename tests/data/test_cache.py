"""The slice cache: read once, shared, memory-mapped, keyed by content and settings."""

from __future__ import annotations

import hashlib
import logging
import os
from multiprocessing import get_context
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

import cps4_monai.data.volume as volume_module
from cps4_monai.data.cache import CACHE_FORMAT, SliceCache
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.volume import InvalidVolumeError

AFFINE = np.diag([-4.0, -1.0, -1.0, 1.0])


@pytest.fixture
def entries(tmp_path):
    random = np.random.default_rng(0)
    made = []
    for i in range(3):
        image, label = tmp_path / f"sub-{i}_T2w.nii.gz", tmp_path / f"sub-{i}_dseg.nii.gz"
        nib.save(nib.Nifti1Image(random.normal(size=(4, 20, 24)).astype(np.float32), AFFINE), image)
        nib.save(nib.Nifti1Image(random.integers(0, 5, (4, 20, 24), dtype=np.uint8), AFFINE), label)
        made.append(SimpleNamespace(image=image, label=label, subject=f"sub-{i}"))
    return made


@pytest.fixture
def opened(monkeypatch):
    names = []
    real = volume_module.open_nifti
    monkeypatch.setattr(volume_module, "open_nifti", lambda path: (names.append(path.name), real(path))[1])
    return names


def cache_at(folder, **settings):
    return SliceCache(folder / "cache", InPlane((12, 10), 2.0), num_classes=5, **settings)


def test_files_are_opened_once_in_all_runs(tmp_path, entries, opened):
    cache_at(tmp_path).prepare(entries, workers=2)
    assert sorted(opened) == sorted(p.name for e in entries for p in (e.image, e.label))
    opened.clear()
    for _ in range(2):
        again = cache_at(tmp_path)
        again.prepare(entries)
        for entry in entries:
            again.image(entry.image).slice(1), again.label(entry.label, entry.image).slice(1)
    assert opened == []


def test_each_process_begins_with_a_share_of_its_own(tmp_path, entries, monkeypatch):
    """Processes of one run that all began with the first scan would all decode all of them."""
    begun = {}
    for rank in (0, 1):
        order = []
        cache = cache_at(tmp_path / str(rank))
        monkeypatch.setattr("cps4_monai.data.cache._this_of_all", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(cache, "_prepare_one", lambda image, label, order=order: order.append(image))
        cache.prepare(entries, workers=1)
        begun[rank] = [next(i for i, entry in enumerate(entries) if entry.image == image) for image in order]
    assert begun == {0: [0, 2, 1], 1: [1, 0, 2]}


def test_slices_are_small_memory_maps_in_zero_to_one(tmp_path, entries):
    cache = cache_at(tmp_path)
    image, label = cache.image(entries[0].image), cache.label(entries[0].label, entries[0].image)
    assert isinstance(image.array, np.memmap) and image.array.dtype == np.float16 and label.array.dtype == np.uint8
    assert image.shape == label.shape == (4, 12, 10) and image.spacing_mm == pytest.approx((4, 2, 2))
    assert image.array.min() >= 0 and image.array.max() <= 1 and not image.array.flags.writeable
    np.testing.assert_array_equal(image.slice(2), image.array[2])
    with pytest.raises(IndexError):
        image.slice(4)
    assert image.grid.slices_shape == (4, 24, 20)


@pytest.mark.parametrize(("size", "view"), [((20, 16), (4, 16, 3, 13)), ((8, 6), (0, 8, 0, 6))])
def test_what_of_the_slices_shows_the_scan_and_what_is_padding(tmp_path, entries, size, view):
    """24 x 20 mm are 12 x 10 pixels of 2 mm, in the middle of the slices."""
    assert SliceCache(tmp_path / "cache", InPlane(size, 2.0)).image(entries[0].image).view == view


def test_other_slices_of_the_same_file_need_another_format(tmp_path):
    """Where this digest changes, CACHE_FORMAT has to, or old caches go on giving the old slices."""
    image, label = tmp_path / "a_T2w.nii.gz", tmp_path / "a_dseg.nii.gz"
    x, y, z = np.ogrid[:4, :20, :24]
    codes = ((x + y // 3 + z // 5) % 5).astype(np.uint8)
    nib.save(nib.Nifti1Image(codes.astype(np.float32), AFFINE), image)
    nib.save(nib.Nifti1Image(codes, AFFINE), label)
    digest = hashlib.sha256(cache_at(tmp_path).label(label, image).array.tobytes()).hexdigest()
    assert {CACHE_FORMAT: digest[:12]} == {2: "2b937247ba55"}


def test_other_settings_and_other_content_are_kept_apart(tmp_path, entries, opened):
    path = entries[0].image
    first = cache_at(tmp_path).image(path)
    other = SliceCache(tmp_path / "cache", InPlane((12, 12), 2.0)).image(path)
    assert first.file != other.file and other.shape == (4, 12, 12)
    nib.save(nib.Nifti1Image(np.random.default_rng(9).normal(size=(4, 20, 24)), AFFINE), path)
    os.utime(path, (1, 1))
    changed = cache_at(tmp_path).image(path)
    assert changed.content_key != first.content_key and len(opened) == 3


def test_a_damaged_or_deleted_cache_file_is_made_anew(tmp_path, entries):
    image = cache_at(tmp_path).image(entries[0].image)
    content = np.array(image.array)
    image.file.write_bytes(b"half")
    np.testing.assert_array_equal(cache_at(tmp_path).image(entries[0].image).array, content)
    image.file.unlink()
    np.testing.assert_array_equal(cache_at(tmp_path).image(entries[0].image).array, content)


def _fill(folder, entries):
    cache_at(folder).prepare(entries)


def test_two_processes_can_fill_one_cache(tmp_path, entries):
    context = get_context("spawn")  # a fork of a process with threads of torch may fail within torch
    both = [context.Process(target=_fill, args=(tmp_path, entries)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    names = [p.name for p in (tmp_path / "cache").iterdir()]
    assert len([n for n in names if n.endswith(".npy")]) == 6 and not [n for n in names if n.startswith(".partial")]


def test_labels_must_fit_table_and_image(tmp_path, entries):
    nib.save(nib.Nifti1Image(np.full((4, 20, 24), 7, np.uint8), AFFINE), entries[0].label)
    nib.save(nib.Nifti1Image(np.zeros((4, 20, 23), np.uint8), AFFINE), entries[1].label)
    moved = AFFINE.copy()
    moved[0, 3] = 3
    nib.save(nib.Nifti1Image(np.zeros((4, 20, 24), np.uint8), moved), entries[2].label)
    with pytest.raises(InvalidVolumeError) as caught:
        cache_at(tmp_path).prepare(entries)
    message = str(caught.value)
    assert all(part in message for part in ("3 files", "outside the table: 7", "(4, 20, 23)", "apart"))


def test_without_labels_no_label_file_is_opened(tmp_path, entries, opened):
    cache_at(tmp_path).prepare(entries, labels=False)
    assert not [name for name in opened if "dseg" in name]


def test_progress_and_warnings_are_logged_once(tmp_path, entries, caplog):
    array = np.random.default_rng(0).normal(size=(4, 20, 24)).astype(np.float32)
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, AFFINE), entries[0].image)
    with caplog.at_level(logging.INFO):
        cache_at(tmp_path).prepare(entries)
    assert "3 of 3 volumes" in caplog.text and caplog.text.count("1 voxels are NaN") == 1
    caplog.clear()
    again = cache_at(tmp_path)
    again.prepare(entries)
    assert again.image(entries[0].image).warnings[0].startswith("1 voxels")
    assert caplog.text.count("1 voxels are NaN") == 1, "a run that finds the slices made says it, too"


def test_structures_that_the_slices_leave_out_are_named(tmp_path, entries, caplog):
    array = np.zeros((4, 20, 24), np.uint8)
    array[:, 8:12, 10:14], array[:, :2, :3] = 1, 2
    nib.save(nib.Nifti1Image(array, AFFINE), entries[0].label)
    cache = SliceCache(tmp_path / "cache", InPlane((10, 10), None), num_classes=3)
    cache.prepare(entries[:1])
    assert "the slices of 10x10 pixels hold nothing of [2]: outside of slice_size" in caplog.text


def test_real_volumes(spider_dir, tmp_path):
    image = sorted((spider_dir / "volumes").glob("sub-*_dseg.nii.gz"))[0]
    label = image.with_name(image.name)
    image = image.with_name(image.name.replace("_dseg", "_T2w"))
    cache = SliceCache(tmp_path, InPlane((160, 128), 1.9), num_classes=20)
    codes = cache.label(label, image).array
    bright = cache.image(image).array.astype(np.float32)
    assert codes.shape == bright.shape and codes.shape[1:] == (160, 128)
    rows = [np.argwhere(codes == code)[:, 1].mean() for code in (2, 3, 4)]
    assert rows[0] > rows[1] > rows[2]  # L5 lies below L4, and L4 below L3: the top row is superior
