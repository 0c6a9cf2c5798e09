"""The leak check: patients and voxels, whatever the file is called and however it is compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.data.datalist import Datalist, Entry, check_leaks
from cps4_monai.data.leaks import LeakError, patients_of, voxel_digest


def save(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4), dtype=array.dtype), path)
    return path


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (3, 8, 9)).astype(np.int16)


def test_the_same_patient_in_training_and_test_is_refused_naming_both() -> None:
    datalist = Datalist(
        training=(Entry(Path("a.nii"), None, "sub-001_ses-01"),), test=(Entry(Path("b.nii"), None, "sub-001_ses-02"),)
    )
    with pytest.raises(LeakError, match=r"sub-001_ses-01 \(a.nii\) in training and sub-001_ses-02 \(b.nii\) in test"):
        check_leaks(datalist, content=False)


def test_patients_are_counted_not_scans_and_found_on_both_sides() -> None:
    training = [{"image": f"data/sub-001_acq-{a}_T2w.nii.gz", "label": "x"} for a in ("t1", "t2")]
    validation = [{"image": "data/sub-001_acq-space_T2w.nii.gz"}, {"image": Path("data/sub-002_T2w.nii.gz")}]
    assert patients_of(training, validation) == [{"sub-001"}, {"sub-001", "sub-002"}]
    in_folders = [{"image": "p1/t2.nii.gz"}, {"image": "p2/t2.nii.gz"}], [{"image": "p3/t2.nii.gz"}]
    assert patients_of(*in_folders) == [{"p1", "p2"}, {"p3"}]
    told = Entry(Path("a.nii.gz"), None, "a", patient="7"), Entry(Path("b.nii.gz"), None, "b", patient="7")
    assert patients_of(told, []) == [{"7"}, set()]


def test_a_renamed_recompressed_copy_is_recognised(tmp_path: Path, voxels: np.ndarray) -> None:
    first = save(tmp_path / "sub-001_T2w.nii", voxels)
    copy = tmp_path / "sub-002_T2w.nii.gz"
    copy.write_bytes(gzip.compress(first.read_bytes(), compresslevel=1))
    datalist = Datalist(training=(Entry(first, None, "sub-001"),), validation=(Entry(copy, None, "sub-002"),))
    with pytest.raises(LeakError, match=r"image content.*sub-001 .*training and sub-002 .*validation"):
        check_leaks(datalist)
    check_leaks(datalist, content=False)


def test_copies_on_one_side_are_no_leak(tmp_path: Path, voxels: np.ndarray) -> None:
    files = [save(tmp_path / f"{k}.nii", voxels) for k in range(2)]
    check_leaks(Datalist(training=tuple(Entry(f, None, f"s{k}") for k, f in enumerate(files))))


def test_digest_follows_voxels_not_type_or_name(tmp_path: Path, voxels: np.ndarray) -> None:
    one = voxel_digest(save(tmp_path / "a.nii", voxels))
    assert one == voxel_digest(save(tmp_path / "b.nii.gz", voxels.astype(np.float64)))
    signed = np.where(voxels, voxels, np.float32(-0.0))
    assert one == voxel_digest(save(tmp_path / "e.nii", signed)) and np.signbit(signed[voxels == 0]).all()
    assert one == voxel_digest(save(tmp_path / "f.nii", voxels.astype(np.int64)))
    changed = voxels.copy()
    changed[1, 2, 3] += 1
    assert one != voxel_digest(save(tmp_path / "c.nii", changed))
    assert one != voxel_digest(save(tmp_path / "d.nii", voxels.reshape(3, 9, 8)))


def test_a_scaled_image_and_what_is_read_of_it_are_the_same_in_either_float_type(
    tmp_path: Path, voxels: np.ndarray
) -> None:
    image = nib.Nifti1Image(voxels * 0.1, np.eye(4))
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.1, 0)
    nib.save(image, tmp_path / "scaled.nii")
    read = nib.load(tmp_path / "scaled.nii").get_fdata()
    assert not np.array_equal(read, read.astype(np.float32)), "no whole numbers"
    copies = [save(tmp_path / f"{kind}.nii", read.astype(kind)) for kind in ("float32", "float64")]
    assert {voxel_digest(copy) for copy in copies} == {voxel_digest(tmp_path / "scaled.nii")}
    assert voxel_digest(save(tmp_path / "large.nii", read * 1e300)) != voxel_digest(copies[0])
