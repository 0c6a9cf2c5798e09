from __future__ import annotations

from pathlib import Path

import pytest

from cps4_monai.data.label_ownership import sidecar_of, write_owned_label
from cps4_monai.data.label_review import ACCEPTED, REVIEW
from cps4_monai.evaluation.matching import match_entries, match_folder


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


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


def test_predictions_of_other_sections_are_no_failures(tmp_path):
    _touch(tmp_path / "data", *(f"sub-{n}_{name}.nii.gz" for n in (1, 2) for name in ("T2w", "dseg")))
    _touch(tmp_path / "pred", *(f"sub-{n}_T2w_dseg.nii.gz" for n in (1, 2, 9)))
    one, two = ((tmp_path / "data" / f"sub-{n}_T2w.nii.gz", tmp_path / "data" / f"sub-{n}_dseg.nii.gz") for n in (1, 2))
    matching = match_entries(tmp_path / "pred", [(*one, "sub-1")], elsewhere=[two[0]])
    assert [case.pred.name for case in matching.cases] == ["sub-1_T2w_dseg.nii.gz"]
    assert [path.name for path in matching.unmatched_predictions] == ["sub-9_T2w_dseg.nii.gz"]


def test_scans_of_one_name_in_two_subfolders_stay_apart(tmp_path):
    _touch(tmp_path / "labels", "a/scan_dseg.nii.gz", "b/scan_dseg.nii.gz")
    _touch(tmp_path / "pred", "a/scan_dseg.nii.gz", "b/scan_dseg.nii.gz")
    cases = match_folder(tmp_path / "pred", tmp_path / "labels").cases
    assert [case.name for case in cases] == ["a/scan", "b/scan"]
    assert [case.pred.parent.name for case in cases] == ["a", "b"]


def test_ambiguous_names_are_an_error(tmp_path):
    _touch(tmp_path / "labels", "sub-1_dseg.nii.gz")
    _touch(tmp_path / "two", "sub-1_dseg.nii.gz", "sub-1_pred.nii.gz")
    with pytest.raises(ValueError, match="are all predictions for"):
        match_folder(tmp_path / "two", tmp_path / "labels")
    _touch(tmp_path / "labels", "sub-1_mask.nii.gz")
    with pytest.raises(ValueError, match="are all labels of one scan"):
        match_folder(tmp_path / "two", tmp_path / "labels")


def test_equal_names_in_patients_folders_find_their_mirrored_predictions(tmp_path):
    _touch(tmp_path / "data", *(f"p{n}/{name}" for n in (1, 2, 3) for name in ("t2.nii.gz", "seg.nii.gz")))
    _touch(tmp_path / "pred", "p1/t2_dseg.nii.gz", "p3/t2_dseg.nii.gz")
    folders = [tmp_path / "data" / f"p{n}" for n in (1, 2, 3)]
    entries = [(f / "t2.nii.gz", f / "seg.nii.gz", f.name) for f in folders]
    for matching in (match_entries(tmp_path / "pred", entries), match_folder(tmp_path / "pred", tmp_path / "data")):
        assert [c.subject for c in matching.cases] == ["p1", "p2", "p3"] and len({c.name for c in matching.cases}) == 3
        assert [c.pred and c.pred.parent.name for c in matching.cases] == ["p1", None, "p3"]
        assert [c.image.parent.name for c in matching.cases] == ["p1", "p2", "p3"]


def test_scans_of_one_patient_are_cases_of_one_patient(tmp_path):
    names = [f"sub-1_{more}" for more in ("acq-sag", "acq-ax", "run-2", "ses-2")]
    _touch(tmp_path / "labels", *(f"{name}_dseg.nii.gz" for name in names))
    _touch(tmp_path / "pred", *(f"{name}_T2w_dseg.NII.GZ" for name in names))
    cases = match_folder(tmp_path / "pred", tmp_path / "labels").cases
    assert sorted(c.name for c in cases) == sorted(names) and {c.subject for c in cases} == {"sub-1"}
    assert all(c.pred.name.startswith(c.name) for c in cases)


def test_predictions_among_the_labels_are_no_ground_truth(tmp_path):
    data = tmp_path / "data"
    _touch(data, "sub-1_T2w.nii.gz", "sub-1_dseg.nii.gz", "sub-2_T2w.nii.gz", "sub-3_T2w.nii.gz")
    for number in (1, 2, 3):
        write_owned_label(data / "derivatives" / f"sub-{number}_seg-spine_dseg.nii.gz", b"%d" % number)
    accepted = data / "derivatives" / "sub-3_seg-spine_dseg.nii.gz"
    write_owned_label(accepted, b"3", {REVIEW: {"State": ACCEPTED}})
    _touch(tmp_path / "pred", "sub-1_dseg.nii.gz")
    cases = match_folder(tmp_path / "pred", data).cases
    assert [case.label.name for case in cases] == ["sub-1_dseg.nii.gz", accepted.name]
    assert [case.name for case in cases] == ["sub-1", "sub-3"]


def test_labels_that_are_all_predictions_are_refused(tmp_path):
    write_owned_label(tmp_path / "sub-1_dseg.nii.gz", b"1")
    with pytest.raises(ValueError, match="all 1 label maps in it were made by this program"):
        match_folder(tmp_path, tmp_path)
    sidecar_of(tmp_path / "sub-1_dseg.nii.gz").unlink()
    assert len(match_folder(tmp_path, tmp_path).cases) == 1, "a label map that nobody knows of is a person's"


def test_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        match_folder(tmp_path / "none", tmp_path / "none")
    with pytest.raises(ValueError, match="no label map"):
        match_folder(tmp_path, tmp_path)
