from __future__ import annotations

from pathlib import Path

import pytest

from cps4_monai.evaluation.matching import PredictionIndex, match_entries, match_folder, scan_key, subject_of


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub-005_T2w.nii.gz", "sub-005"),
        ("sub-005_T2w_dseg.nii.gz", "sub-005"),
        ("sub-005_dseg.nii", "sub-005"),
        ("sub-005_run-2_T2w_pred.nii.gz", "sub-005_run-2"),
        ("case_1_0000.nii.gz", "case_1"),
        ("mask_case1.nii.gz", "case1"),
        ("Case1.nii.gz", "case1"),
        ("dseg.nii.gz", "dseg"),
    ],
)
def test_names_of_scan_label_and_prediction_meet(name, key):
    assert scan_key(Path(name)) == key


def test_subject_is_the_bids_subject_where_there_is_one():
    assert subject_of(Path("sub-005_run-2_dseg.nii.gz")) == "sub-005"
    assert subject_of(Path("case_7_dseg.nii.gz")) == "case_7"


def test_folder_pairs_labels_with_predictions_and_scans(tmp_path):
    _touch(tmp_path / "labels", "sub-1_T2w.nii.gz", "sub-1_dseg.nii.gz", "sub-2_dseg.nii.gz")
    _touch(tmp_path / "pred", "sub-1_T2w_dseg.nii.gz", "sub-9_T2w_dseg.nii.gz")
    matching = match_folder(tmp_path / "pred", tmp_path / "labels")
    first, second = matching.cases
    assert first.pred.name == "sub-1_T2w_dseg.nii.gz" and first.image.name == "sub-1_T2w.nii.gz"
    assert second.pred is None and second.image is None
    assert [p.name for p in matching.unmatched_predictions] == ["sub-9_T2w_dseg.nii.gz"]


def test_ground_truth_in_the_output_folder_is_no_prediction(tmp_path):
    _touch(tmp_path, "sub-1_T2w.nii.gz", "sub-1_dseg.nii.gz", "sub-1_T2w_dseg.nii.gz")
    entry = (tmp_path / "sub-1_T2w.nii.gz", tmp_path / "sub-1_dseg.nii.gz", "sub-1")
    (case,) = match_entries(tmp_path, [entry]).cases
    assert case.pred.name == "sub-1_T2w_dseg.nii.gz"


def test_scans_of_one_name_in_two_subfolders_stay_apart(tmp_path):
    _touch(tmp_path / "labels", "a/scan_dseg.nii.gz", "b/scan_dseg.nii.gz")
    _touch(tmp_path / "pred", "a/scan_dseg.nii.gz", "b/scan_dseg.nii.gz")
    cases = match_folder(tmp_path / "pred", tmp_path / "labels").cases
    assert [case.name for case in cases] == ["a/scan", "b/scan"]
    assert [case.pred.parent.name for case in cases] == ["a", "b"]


def test_ambiguous_names_are_an_error(tmp_path):
    _touch(tmp_path / "two", "sub-1_dseg.nii.gz", "sub-1_pred.nii.gz")
    with pytest.raises(ValueError, match="all predictions for 'sub-1'"):
        PredictionIndex(tmp_path / "two")
    _touch(tmp_path / "far", "a/x_dseg.nii.gz", "b/x_dseg.nii.gz")
    with pytest.raises(ValueError, match="could all be the prediction"):
        PredictionIndex(tmp_path / "far").find("x")


def test_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        match_folder(tmp_path / "none", tmp_path / "none")
    with pytest.raises(ValueError, match="no label map"):
        match_folder(tmp_path, tmp_path)
