"""Labeled subjects by name, and subsets that move along with the seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cps4_monai.data.datalist import DatalistError, load_datalist
from cps4_monai.data.labeled_subsets import labeled_choice, labeled_order, read_json, rotated_subset

NAMES = [f"sub-{k:03d}" for k in range(1, 7)]


def own(folder: Path, **more: object) -> Path:
    training = [{"image": f"{n}_T2w.nii.gz", "label": f"{n}_dseg.nii.gz", "labeled": n == NAMES[0]} for n in NAMES[:5]]
    training.append({"image": f"{NAMES[5]}_T2w.nii.gz"})
    path = folder / "datalist.json"
    path.write_text(
        json.dumps({"training": training, "subsets": {"40": [NAMES[2], NAMES[4]], "20": [NAMES[2]]}, **more})
    )
    return path


def spider(folder: Path) -> Path:
    path = folder / "splits.json"
    path.write_text(json.dumps({"train": NAMES, "val": [], "test": [], "labeled": {"50": NAMES[1:4]}}))
    return path


def labeled(path: Path, **choice: object) -> list[str]:
    return [e.subject for e in load_datalist(path, check_files=False, **choice).labeled]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [own, spider])
def test_named_subjects_are_the_labeled_ones_whatever_the_share_says(make, tmp_path: Path) -> None:
    path = make(tmp_path)
    share = "40" if make is own else "50"
    assert labeled(path, labeled_share=share, labeled_subjects=[NAMES[3], NAMES[0]]) == [NAMES[0], NAMES[3]]
    rest = load_datalist(path, check_files=False, labeled_subjects=[NAMES[3]]).unlabeled
    assert len(rest) == 5 and all(entry.label is None for entry in rest)


@pytest.mark.parametrize("wrong", [["sub-006"], ["sub-999"], []])
def test_a_name_without_a_label_is_refused(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"expected at least one, each a training subject with a label: sub-003"):
        load_datalist(own(tmp_path), check_files=False, labeled_subjects=wrong)


def test_a_share_that_names_subjects_without_a_label_is_refused(tmp_path: Path) -> None:
    training = [{"image": "a.nii", "label": "b.nii", "subject": "a"}, {"image": "c.nii", "subject": "c"}]
    content = {"training": training, "subsets": {"10": ["a", "c", "gone"]}}
    with pytest.raises(DatalistError, match="'subsets' of 10 names c, gone; expected training subjects with a label"):
        labeled_choice(content, tmp_path / "d.json", "10", None)


def test_the_order_begins_with_the_recorded_subsets(tmp_path: Path) -> None:
    path = own(tmp_path)
    assert labeled_order(read_json(path), path) == [NAMES[2], NAMES[4], NAMES[0], NAMES[1], NAMES[3]]
    path = spider(tmp_path)
    assert labeled_order(read_json(path), path) == [*NAMES[1:4], NAMES[0], *NAMES[4:]]


def test_rotation_starts_at_the_recorded_subset_stays_disjoint_and_comes_round(tmp_path: Path) -> None:
    path = own(tmp_path)
    content = read_json(path)
    turns = [rotated_subset(content, path, "40", turn) for turn in range(4)]
    assert turns[0] == [NAMES[2], NAMES[4]]
    assert not set(turns[0]) & set(turns[1])
    assert turns[2] == [NAMES[3], NAMES[2]]  # five subjects: the third pair needs the first one again
    assert all(len(set(turn)) == 2 for turn in turns)
    with pytest.raises(DatalistError, match="no labeled share '33'"):
        rotated_subset(content, path, "33", 0)


def test_rotation_keeps_the_scans_of_a_patient_together(tmp_path: Path) -> None:
    """Two contrasts each: seeds that cut a patient in two would share one, and use his other scan without its label."""
    patients = [f"p{number}" for number in range(5)]
    scans = {patient: [f"{patient}_T1w", f"{patient}_T2w"] for patient in patients}
    entries = [
        {"image": f"{scan}.nii", "label": f"{scan}_dseg.nii", "subject": scan, "patient": patient}
        for patient, own in scans.items()
        for scan in own
    ]
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"training": entries, "subsets": {"40": [*scans["p3"], *scans["p0"]]}}))
    turns = [rotated_subset(read_json(path), path, "40", turn) for turn in range(3)]
    expected = [("p3", "p0"), ("p1", "p2"), ("p4", "p3")]
    assert turns == [[scan for patient in turn for scan in scans[patient]] for turn in expected]


def test_rotation_on_the_real_split(spider_dir: Path) -> None:
    path = spider_dir / "splits.json"
    content = read_json(path)
    for share, size in (("5", 1), ("10", 2)):
        turns = [rotated_subset(content, path, share, seed) for seed in range(3)]
        assert turns[0] == content["labeled"][share] and len({name for turn in turns for name in turn}) == 3 * size
        assert labeled(path, labeled_subjects=turns[2]) == turns[2]


def test_a_subject_called_0_is_labeled_as_the_others_are(tmp_path: Path) -> None:
    """Numbers as tables have them, from 0."""
    training = [{"image": f"{k}_T2w.nii.gz", "label": f"{k}_dseg.nii.gz", "subject": k} for k in range(3)]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": training, "subsets": {"40": ["0"]}}))
    assert labeled(path) == ["0", "1", "2"] and labeled(path, labeled_share="40") == ["0"]
    assert labeled(path, labeled_subjects=["0"]) == ["0"]
