from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from cps4_monai.scan_names import FileName, find_nifti, is_nifti, mirrored_folder, relative_path, stem_of


@pytest.mark.parametrize(
    ("name", "scan", "contrast"),
    [
        ("sub-005_T2w.nii.gz", "sub-005", "t2w"),
        ("sub-005_T2w_dseg.nii.gz", "sub-005", "t2w"),
        ("sub-005_dseg.nii", "sub-005", ""),
        ("sub-005_ses-1_acq-sag_run-2_T2w_pred.NII.GZ", "sub-005_ses-1_acq-sag_run-2", "t2w"),
        ("sub-01_T2w_label-spine_dseg.nii.gz", "sub-01", "t2w"),
        ("sub-01_desc-preproc_T2w.nii.gz", "sub-01", "t2w"),
        ("case_1_0000.nii.gz", "case_1", ""),
        ("case_1_0001.nii.gz", "case_1_0001", ""),
        ("imagesTr/case_1_0001.nii.gz", "case_1", ""),
        ("mask_case1.nii.gz", "case1", ""),
        ("t2_trans.nii.gz", "t2", ""),
        ("x-mask.nii", "x", ""),
        ("seg.nii.gz", "", ""),
        ("T2w.nii.gz", "T2w", ""),
    ],
)
def test_the_scans_own_name_and_contrast(name, scan, contrast):
    found = FileName.of(name)
    assert (found.scan, found.contrast) == (scan, contrast)


@pytest.mark.parametrize(("name", "is_label"), [
    ("sub-1_T2w_dseg.nii.gz", True), ("x-mask.nii", True), ("brainmask.nii", True), ("Case1.nii.gz", False),
    ("T2w_SAG.nii.gz", False), ("masked_scan.nii.gz", True), ("damask_T2.nii.gz", False), ("x_pred.nii.gz", True),
    ("x_labels.nii.gz", True), ("sub-1_T2w_label-spine_dseg.nii.gz", True), ("t2_trans.nii.gz", False),
])  # fmt: skip
def test_names_of_label_maps(name, is_label):
    assert FileName.of(name).is_label_map == is_label


def test_four_digits_are_a_channel_in_nnunets_folders_only():
    assert [FileName.of(f"imagesTs/A_000{n}.nii.gz").channel for n in (0, 1)] == [0, 1]
    assert [FileName.of(f"scans/A_000{n}.nii.gz").channel for n in (0, 1)] == [0, None]


def test_descriptions_tell_images_of_one_scan_apart():
    assert FileName.of("sub-1_desc-a_T2w.nii.gz").bare == "sub-1_desc-a"
    assert FileName.of("sub-1_desc-a_dseg.nii.gz").bare == "sub-1_desc-a"


def test_endings_count_in_any_case_and_other_dots_stay():
    assert is_nifti("A.NII.GZ") and is_nifti("a.Nii") and not is_nifti("a.nii.gz.txt")
    assert [stem_of(n) for n in ("A.NII.GZ", "a.b.nii", "x.mha", "1.2.840.3")] == ["A", "a.b", "x", "1.2.840.3"]


def test_search_takes_any_case_and_leaves_hidden_files(tmp_path):
    top = tmp_path / ".hidden"
    for name in ("b.NII.GZ", "a/x.nii", ".partial-c.nii.gz", "notes.txt", ".git/annex/d.nii.gz"):
        (top / name).parent.mkdir(exist_ok=True, parents=True)
        (top / name).touch()
    assert [p.name for p in find_nifti(top)] == ["x.nii", "b.NII.GZ"]
    with pytest.raises(ValueError, match="is not a folder"):
        find_nifti(tmp_path / "none")


def test_subfolders_are_mirrored_and_steps_up_dropped():
    assert mirrored_folder("/data/p1/anat/t2.nii", "/data") == PurePosixPath("p1/anat")
    assert mirrored_folder("/data/t2.nii", "/data") == PurePosixPath()
    assert mirrored_folder("/other/p1/t2.nii", "/data/scans") == PurePosixPath("other/p1")


def test_a_path_on_another_drive_stays_whole_and_is_mirrored_without_it(monkeypatch):
    def no_way(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    assert relative_path("/data/p1/t2.nii", "/data/lists") == PurePosixPath("../p1/t2.nii")
    monkeypatch.setattr("os.path.relpath", no_way)
    assert relative_path("/data/p1/t2.nii", "/data/lists") == PurePosixPath("/data/p1/t2.nii")
    assert mirrored_folder("/other/p1/t2.nii", "/data/scans") == PurePosixPath("other/p1")
