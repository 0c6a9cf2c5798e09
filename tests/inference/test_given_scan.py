from __future__ import annotations

import hashlib

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor


def test_an_array_with_its_affine_gives_the_labels_of_its_file(segmenter, make_scan):
    scan = make_scan()
    for given in (scan.image, torch.from_numpy(scan.image.astype(np.float32))[None], scan.image.astype(np.int64)):
        np.testing.assert_array_equal(segmenter(given, affine=scan.affine, qc=False).labels, scan.label)


def test_a_metatensor_brings_its_affine(segmenter, make_scan):
    scan = make_scan()
    given = MetaTensor(torch.from_numpy(scan.image.astype(np.float32))[None], affine=torch.from_numpy(scan.affine))
    result = segmenter(given, qc=False)
    np.testing.assert_array_equal(result.labels, scan.label)
    np.testing.assert_allclose(result.affine, scan.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((3, 4, 5)), "pass affine="),
        ([1, 2, 3], "scan is a list"),
        (None, "scan is a NoneType"),
    ],
)
def test_what_is_no_scan_is_refused_in_words(segmenter, given, words):
    with pytest.raises(TypeError, match=words):
        segmenter(given)


def test_an_affine_of_another_shape_or_for_a_file_is_refused(segmenter, make_scan):
    scan = make_scan()
    with pytest.raises(ValueError, match=r"affine has shape \(3, 3\)"):
        segmenter(scan.image, affine=np.eye(3))
    with pytest.raises(ValueError, match=r"scan has shape \(5, 96\)"):
        segmenter(np.zeros((5, 96)), affine=np.eye(4))
    with pytest.raises(TypeError, match="expected it for arrays only"):
        segmenter(nib.Nifti1Image(scan.image, scan.affine), affine=np.eye(4))


def test_an_image_read_from_a_file_is_known_by_the_file_and_a_changed_one_by_itself(segmenter, make_scan, tmp_path):
    path = make_scan().save(tmp_path / "scan.nii.gz")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (
        segmenter(nib.load(path), qc=False).record["SourceSha256"] == sha256 == segmenter(path).record["SourceSha256"]
    )
    moved = nib.load(path)
    moved.affine[0, 3] += 1
    voxels = nib.load(path)
    voxels = nib.Nifti1Image(voxels.get_fdata(), voxels.affine, voxels.header)
    voxels.set_filename(path)
    assert all(segmenter(image, qc=False).record["SourceSha256"] != sha256 for image in (moved, voxels))
