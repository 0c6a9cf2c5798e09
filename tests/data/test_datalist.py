"""Reading datalists: labels only where they are used, nested shares, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cps4_monai.data.datalist import Datalist, DatalistError, Entry, load_datalist


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for k in range(1, 7):
        for suffix in ("T2w", "dseg"):
            (tmp_path / f"sub-{k:03d}_{suffix}.nii.gz").write_bytes(b"not read here")
    return tmp_path


def entry(k: int, **more: object) -> dict:
    return {"image": f"sub-{k:03d}_T2w.nii.gz", "label": f"sub-{k:03d}_dseg.nii.gz", "subject": f"sub-{k:03d}", **more}


def write(folder: Path, **content: object) -> Path:
    path = folder / "datalist.json"
    path.write_text(json.dumps({"name": "six", "unannotated": [1], **content}))
    return path


def test_reads_sides_labels_and_unannotated(scans: Path) -> None:
    training = [entry(1), {"image": "sub-002_T2w.nii.gz"}]
    datalist = load_datalist(write(scans, training=training, validation=[entry(3)], test=[entry(4)]))
    assert [e.subject for e in datalist.labeled] == ["sub-001"]
    assert [e.subject for e in datalist.unlabeled] == ["sub-002"]
    assert datalist.labeled[0].label == scans / "sub-001_dseg.nii.gz"
    assert datalist.validation[0].label == scans / "sub-003_dseg.nii.gz"
    assert datalist.unannotated == (1,) and datalist.name == "six" and datalist.warnings == ()


def test_an_entry_marked_as_not_labeled_keeps_no_label(scans: Path) -> None:
    datalist = load_datalist(write(scans, training=[entry(1), entry(2, labeled=False)]))
    assert [e.label for e in datalist.unlabeled] == [None]


@pytest.mark.parametrize("share", ["10", 10, 10.0, "10%"])
def test_labeled_share_selects_the_recorded_subset(scans: Path, share: object) -> None:
    path = write(scans, training=[entry(1), entry(2), entry(3)], subsets={"10": ["sub-002"]})
    datalist = load_datalist(path, labeled_share=share)
    assert [e.subject for e in datalist.labeled] == ["sub-002"]
    assert all(e.label is None for e in datalist.unlabeled) and len(datalist.unlabeled) == 2


def test_shares_are_recorded_with_or_without_a_percent_sign(scans: Path) -> None:
    path = write(scans, training=[entry(1), entry(2)], subsets={"50%": ["sub-002"], "100.0": ["sub-001", "sub-002"]})
    assert [e.subject for e in load_datalist(path, labeled_share=50).labeled] == ["sub-002"]
    with pytest.raises(DatalistError, match=r"no labeled share '10'; the file records \['50', '100'\]"):
        load_datalist(path, labeled_share=10)


def test_what_other_programs_write_is_read(scans: Path) -> None:
    entries = [entry(1, labeled=1, classes=[0, 2]), entry(2, labeled=0), entry(3, labeled=None)]
    path = write(scans, training=entries, train=True, subsets={"small": ["sub-001"], "50": ["sub-003"]})
    datalist = load_datalist(path)
    assert [e.subject for e in datalist.labeled] == ["sub-001", "sub-003"] and datalist.labeled[0].classes == (2,)
    assert [e.subject for e in load_datalist(path, labeled_share=50).labeled] == ["sub-003"]


def test_share_100_uses_every_label_even_of_entries_marked_unlabeled(scans: Path) -> None:
    datalist = load_datalist(write(scans, training=[entry(1), entry(2, labeled=False)]), labeled_share=100)
    assert len(datalist.labeled) == 2


def test_paths_are_relative_to_dataset_dir(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("lists")
    path = write(elsewhere, training=[entry(1)])
    assert load_datalist(path, dataset_dir=scans).training[0].image == scans / "sub-001_T2w.nii.gz"
    with pytest.raises(DatalistError, match=r"2 of 2 files are missing.*dataset_dir"):
        load_datalist(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": "all"}, "'training' is a str"),
        ({"training": [{"label": "x"}]}, "expected an object with one file name"),
        ({"training": [{"image": "sub-001_T2w.nii.gz", "label": 3}]}, "has the label 3"),
        ({"training": [{"image": ["sub-001_T2w.nii.gz"]}]}, "expected an object with one file name"),
        ({"training": [], "unannotated": ["S"]}, "'unannotated' is"),
        ({"training": [], "structures": ["S"]}, "'structures' is .* expected the short name for each code"),
        ({"training": [], "structures": {"S": 1}}, "'structures' is"),
        ({"training": [], "subsets": []}, "'subsets' is a list"),
        ({"training": [entry(1), entry(1)]}, "listed twice"),
        ({"training": [entry(1)], "val": [entry(2)]}, "found the list 'val'; expected 'validation': rename it"),
        ({"train": [entry(1)], "validation": [entry(2)]}, "found the list 'train'; expected 'training'"),
        ({"training": [entry(1, labeled="false")]}, "'labeled' 'false' for sub-001_T2w.nii.gz; expected true or false"),
        ({"training": [entry(1, classes="2,3")]}, "has the classes '2,3' for sub-001_T2w.nii.gz; expected a list"),
        ({"training": [entry(1, classes=[2.0])]}, r"has the classes \[2.0\]"),
        ({"training": [entry(1)], "subsets": {"5": "sub-001"}}, "'subsets' of '5' is 'sub-001'; expected a list"),
        ({"training": [entry(1)], "subsets": {"5": [], "5%": ["sub-001"]}}, "two of which are one share"),
    ],
)
def test_wrong_forms_are_refused(scans: Path, content: dict, message: str) -> None:
    with pytest.raises(DatalistError, match=message):
        load_datalist(write(scans, **content))


def test_an_empty_label_is_none(scans: Path) -> None:
    """As tables export what is not there."""
    datalist = load_datalist(write(scans, training=[entry(1), {"image": "sub-002_T2w.nii.gz", "label": ""}]))
    assert [e.label is None for e in datalist.training] == [False, True]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": []}'])
def test_files_that_are_no_datalist_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DatalistError, match=r"bad\.json"):
        load_datalist(path)


def test_a_missing_datalist_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"nothing\.json.*cps4 datalist"):
        load_datalist(tmp_path / "nothing.json")


def test_an_unrecorded_share_lists_the_recorded_ones(scans: Path) -> None:
    path = write(scans, training=[entry(1)], subsets={"5": ["sub-001"], "25": ["sub-001"]})
    with pytest.raises(DatalistError, match=r"no labeled share '10'; the file records \['5', '25'\]"):
        load_datalist(path, labeled_share=10)
    with pytest.raises(DatalistError, match="expected a percentage"):
        load_datalist(path, labeled_share="ten")


def test_required_parts_must_have_entries(scans: Path) -> None:
    path = write(scans, training=[entry(1)])
    load_datalist(path, require=("labeled",))
    with pytest.raises(DatalistError, match=r"no unlabeled subject.*supervised"):
        load_datalist(path, require=("labeled", "unlabeled"))
    path = write(scans, training=[{"image": "sub-001_T2w.nii.gz"}])
    with pytest.raises(DatalistError, match="no labeled subject"):
        load_datalist(path, require=("labeled",))


def test_a_patient_labeled_in_one_session_and_unlabeled_in_another_warns_once(scans: Path) -> None:
    for session in ("01", "02"):
        (scans / f"sub-009_ses-{session}_T2w.nii.gz").touch()
    training = [
        {"image": "sub-009_ses-01_T2w.nii.gz", "label": "sub-001_dseg.nii.gz"},
        {"image": "sub-009_ses-02_T2w.nii.gz"},
    ]
    datalist = load_datalist(write(scans, training=training))
    assert datalist.warnings == ("1 patient is both labeled and unlabeled within training: sub-009",)


def test_equal_file_names_in_patients_folders_are_patients_of_their_own(tmp_path: Path) -> None:
    for name in ("p1", "p2", "p3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t2.nii.gz").touch()
    lists = {"training": ["p1/t2.nii.gz"], "validation": [{"image": "p2\\t2.nii.gz"}], "test": ["./p3/t2.nii.gz"]}
    datalist = load_datalist(write(tmp_path, **lists))
    entries = [e for side in datalist.sides.values() for e in side]
    assert [(e.subject, e.patient) for e in entries] == [("p1/t2", "p1"), ("p2/t2", "p2"), ("p3/t2", "p3")]
    again = write(
        tmp_path, training=["p1/t2.nii.gz"], test=[{"image": "p2/t2.nii.gz", "patient": "p1", "subject": "x"}]
    )
    with pytest.raises(ValueError, match="the same patient is on two sides"):  # a recorded patient is believed
        load_datalist(again)
    numbered = [{"image": f"p{k}/t2.nii.gz", "patient": 0} for k in (1, 2)]  # as tables number from 0
    with pytest.raises(ValueError, match="the same patient is on two sides"):
        load_datalist(write(tmp_path, training=numbered[:1], test=numbered[1:]))


def test_a_second_channel_of_nnunet_is_the_same_patient(tmp_path: Path) -> None:
    lists = {"training": ["imagesTr/A_0000.nii.gz"], "test": ["imagesTr/A_0001.nii.gz"]}
    with pytest.raises(ValueError, match="the same patient is on two sides"):
        load_datalist(write(tmp_path, **lists), check_files=False)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_encodings_of_other_tools_are_read(scans: Path, encoding: str) -> None:
    path = scans / "list.json"
    path.write_text(json.dumps({"test": [entry(1)]}), encoding=encoding)
    assert load_datalist(path).test[0].subject == "sub-001"


def test_a_drive_letter_is_said_to_be_windows(tmp_path: Path) -> None:
    for check_files in (True, False):
        with pytest.raises(DatalistError, match=r"'test' has C:/data/t2\.nii\.gz, whose drive letter is of Windows"):
            load_datalist(write(tmp_path, test=[{"image": "C:\\data\\t2.nii.gz"}]), check_files=check_files)


def test_a_missing_file_with_a_whole_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"1 of 1 files are missing: /elsewhere/t2\.nii\.gz"):
        load_datalist(write(tmp_path, test=[{"image": "/elsewhere/t2.nii.gz"}]))


def test_folds_are_said_not_to_be_read(scans: Path) -> None:
    datalist = load_datalist(write(scans, training=[entry(1, fold=0), entry(2, fold=1)]))
    assert [w for w in datalist.warnings if "2 entries have a fold" in w]
    (warning,) = load_datalist(write(scans, training=[entry(1)], testing=[{"image": "sub-002_T2w.nii.gz"}])).warnings
    assert warning.startswith("'testing' is not read")


def test_a_misspelt_part_is_told_with_those_there_are(scans: Path) -> None:
    with pytest.raises(DatalistError, match=r"has no part 'tests'; expected one of labeled, .*validation, test"):
        load_datalist(write(scans, test=[entry(1)]), require=["tests"])


def test_labeled_and_unlabeled_partition_training() -> None:
    datalist = Datalist(training=(Entry(Path("a"), Path("b"), "s1"), Entry(Path("c"), None, "s2")))
    assert {*datalist.labeled, *datalist.unlabeled} == set(datalist.training)


def test_reads_the_spider_splits_as_they_stand(spider_dir: Path) -> None:
    datalist = load_datalist(spider_dir / "splits.json", labeled_share="10", require=("labeled", "unlabeled"))
    assert [e.subject for e in datalist.labeled] == ["sub-209", "sub-161"]
    assert (len(datalist.unlabeled), len(datalist.validation), len(datalist.test)) == (16 + 4, 3, 7)
    assert datalist.unannotated == (1,)
    more = load_datalist(spider_dir / "splits.json", labeled_share="10", unlabeled_slices=True)
    held_out = {e.subject for e in (*more.validation, *more.test)}
    assert not any("unlabeled_slices" in warning for warning in more.warnings)
    assert len(more.unlabeled) == 20 + 144 and not held_out & {e.subject for e in more.training}


def test_asking_for_single_slices_of_a_datalist_that_has_none_is_said_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").touch()
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{"image": "scan.nii", "subject": "a"}]}))
    plain, more = (load_datalist(tmp_path / "datalist.json", unlabeled_slices=asked) for asked in (False, True))
    assert plain == more and len(more.unlabeled) == 1 and plain.warnings == ()
    assert more.warnings == ("unlabeled_slices is true, but this datalist lists none: unlabeled are the scans of "
                             "'training' only",)  # fmt: skip


def splits(**changes: object) -> dict:
    content = {"train": ["sub-001", "sub-002"], "val": [], "test": [], "labeled": {"50": ["sub-001"]}}
    return {**content, **changes}


def test_spider_splits_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(splits(labeled={"50": ["sub-007"]})))
    with pytest.raises(DatalistError, match=r"\['sub-007'\] are not in 'train'"):
        load_datalist(path, labeled_share=50, check_files=False)
    path.write_text(json.dumps(splits(val="sub-003")))
    with pytest.raises(DatalistError, match="'val' is a str"):
        load_datalist(path, check_files=False)
    path.write_text(json.dumps(splits(test=["sub-002"])))
    with pytest.raises(ValueError, match="the same patient is on two sides"):
        load_datalist(path, check_files=False)


@pytest.mark.parametrize(
    ("key", "name"),
    [("unanotated", "unannotated"), ("trainig", "training"), ("subset", "subsets"), ("validaton", "validation")],
)
def test_a_misspelt_key_is_not_passed_over(scans: Path, key: str, name: str) -> None:
    content = {"training": [entry(1)], "validation": [entry(3)], "unannotated": [1], "subsets": {"10": ["sub-001"]}}
    path = scans / "datalist.json"
    path.write_text(json.dumps({(key if known == name else known): value for known, value in content.items()}))
    with pytest.raises(DatalistError, match=f"has '{key}', which is not read: did you mean '{name}'"):
        load_datalist(path)


def test_entries_that_hide_their_label_by_its_key_are_named(scans: Path) -> None:
    lost = {"image": "sub-002_T2w.nii.gz", "lable": "sub-002_dseg.nii.gz", "subject": "sub-002"}
    with pytest.raises(
        DatalistError, match=r"for sub-002_T2w\.nii\.gz, 'lable', which is not read: did you mean 'label'"
    ):
        load_datalist(write(scans, training=[entry(1), lost]))
    without = {"image": "sub-002_T2w.nii.gz", "labeled": True}
    with pytest.raises(DatalistError, match=r"'labeled' true for sub-002_T2w\.nii\.gz, and no 'label'"):
        load_datalist(write(scans, training=[entry(1), without]))
    with pytest.raises(DatalistError, match="'labelled', which is not read: did you mean 'labeled'"):
        load_datalist(write(scans, training=[entry(1), entry(2, labelled=False)]))
    assert len(load_datalist(write(scans, training=[entry(1), {**without, "labeled": False}])).unlabeled) == 1
    other = {**entry(1), "labels": ["L5"], "site": "a", "fold": 0, "age": 50}
    assert len(load_datalist(write(scans, training=[other], numTraining=1, labels={"1": "S"})).labeled) == 1


def test_an_empty_part_names_the_file(scans: Path) -> None:
    path = write(scans, training=[entry(1)])
    with pytest.raises(DatalistError, match=f"{path}: no validation subject; expected at least one"):
        load_datalist(path, require=["validation"])
