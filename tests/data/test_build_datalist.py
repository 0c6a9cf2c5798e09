"""Building datalists: layouts, splits by patient, nested subsets and the cover of rare classes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.data.build_datalist import build_datalist, missing_classes, not_labeled
from cps4_monai.data.datalist import Datalist, DatalistError, Entry, LeakError, load_datalist
from cps4_monai.data.label_ownership import write_owned_label
from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.data.patient_split import order_for_cover, split_patients, subset_size
from cps4_monai.data.scan_folder import Scan, find_scans


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, (2, 6, 6)).astype(np.int16)


def label(*codes: int) -> np.ndarray:
    array = np.zeros((2, 6, 6), np.uint8)
    array.ravel()[1 : 1 + len(codes)] = codes
    return array


def make_pairs(folder: Path, count: int, unlabeled: int = 0) -> Path:
    for k in range(1, count + unlabeled + 1):
        save(folder / f"sub-{k:03d}_T2w.nii.gz", image(k))
        if k <= count:
            save(folder / f"sub-{k:03d}_dseg.nii.gz", label(2, 3, 10 if k == 3 else 4))
    return folder


def test_plain_pairs_become_a_datalist_that_loads(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 8, unlabeled=3)
    built = build_datalist(folder, tmp_path / "datalist.json", labeled_share=50, val=1, test=2, unannotated=[1])
    assert (len(built.labeled), len(built.unlabeled), len(built.validation), len(built.test)) == (2, 3 + 3, 1, 2)
    loaded = load_datalist(tmp_path / "datalist.json")
    assert loaded == replace(built, warnings=loaded.warnings) and loaded.unannotated == (1,)
    subjects = [e.subject for side in loaded.sides.values() for e in side]
    assert sorted(subjects) == [f"sub-{k:03d}" for k in range(1, 12)]


def test_the_same_seed_splits_alike_and_another_differently(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 12)
    texts = []
    for seed in (1, 1, 2):
        build_datalist(folder, tmp_path / "datalist.json", seed=seed, check_content=False)
        texts.append((tmp_path / "datalist.json").read_text().replace(f"seed {seed}", "seed"))
    assert texts[0] == texts[1] != texts[2]


def test_subsets_are_nested_and_of_the_asked_sizes(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 20)
    build_datalist(folder, tmp_path / "d.json", labeled_share=15, val=0, test=0, check_content=False)
    subsets = json.loads((tmp_path / "d.json").read_text())["subsets"]
    assert {s: len(v) for s, v in subsets.items()} == {
        **{"1": 1, "2": 1, "5": 1},
        **{"10": 2, "15": 3, "25": 5, "50": 10, "100": 20},
    }
    nested = [set(subsets[s]) for s in sorted(subsets, key=float)]
    assert all(a <= b for a, b in pairwise(nested))
    assert len(load_datalist(tmp_path / "d.json").labeled) == 3
    assert len(load_datalist(tmp_path / "d.json", labeled_share=25).labeled) == 5


def test_the_patient_with_the_only_rare_class_is_labeled_and_stays_in_training(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 12)
    for seed in range(4):
        built = build_datalist(folder, tmp_path / "d.json", labeled=2, seed=seed, val=2, test=3, check_content=False)
        assert "sub-003" in {e.subject for e in built.labeled}
        assert not [w for w in built.warnings if "(T9)" in w or "(L3)" in w]


def test_cover_takes_rare_classes_first_then_balances() -> None:
    shown = {"a": {1, 2}, "b": {1, 2}, "c": {1, 2, 3}, "d": {4}}
    order = order_for_cover(shown, np.random.default_rng(0))
    assert order[:2] == ["c", "d"] and sorted(order) == ["a", "b", "c", "d"]


def test_warns_of_a_class_that_no_labeled_subject_shows(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", label(*range(2, 19)))
    datalist = Datalist(training=(Entry(path, path, "a"),), unannotated=(1,))
    warnings = missing_classes(datalist)
    assert warnings == ("class 19 (T9/T10): no labeled subject shows it, so it cannot be learned",)


def test_label_maps_without_any_structure_warn_of_every_class(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", label())
    (warning,) = missing_classes(Datalist(training=(Entry(path, path, "a"),), unannotated=(1,)))
    assert warning.startswith("classes 2 (L5), 3 (L4), ") and warning.count("(") == 18 and "1 (S)" not in warning
    assert warning.endswith(", 19 (T9/T10): no labeled subject shows them, so they cannot be learned")


def test_codes_that_nobody_labeled_are_those_of_the_datalist_and_those_never_shown(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", label(*range(2, 17)))
    entries = (Entry(path, path, "a"), Entry(path, None, "b", (17,)))
    assert not_labeled(Datalist(training=entries, unannotated=(1,))) == (1, 17, 18, 19)
    assert not_labeled(Datalist(training=entries[1:], unannotated=(1,))) == (1,), "no label says what is absent"
    save(path, label(*range(1, 20)))
    os.utime(path, ns=(1, 1))
    assert not_labeled(Datalist(training=entries[:1])) == (), "a label map that changed is read again"


def test_unannotated_codes_of_a_datalist_must_be_structures_of_the_anatomy() -> None:
    with pytest.raises(DatalistError, match=r"datalist mine: 'unannotated' has \[20\]; expected codes"):
        missing_classes(Datalist(unannotated=(1, 20), name="mine"))


def test_the_names_of_codes_are_recorded_and_other_ones_refused(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "scans", 4, unlabeled=1)
    named = [("background", "background"), ("cord", "other"), *((s.name, s.kind) for s in MRSPINESEG.structures[2:])]
    cord = Anatomy([Structure(code, name, name, kind) for code, (name, kind) in enumerate(named)])
    settings = {"val": 1, "test": 1}
    datalist = build_datalist(folder, tmp_path / "d.json", anatomy=cord, **settings)
    assert datalist.structures == dict(enumerate(cord.names[1:], start=1))
    datalist.check_anatomy(cord)
    with pytest.raises(DatalistError, match=r"d\.json: its label maps .* code 1 'cord', not 'S'; .*anatomy_source"):
        datalist.check_anatomy(MRSPINESEG)
    with pytest.raises(DatalistError, match="code 2 'L5', not None, 3 "):
        datalist.check_anatomy(Anatomy(cord.structures[:2]))
    mask = folder / "sub-001_dseg.nii.gz"
    record = {"Structures": [{"code": 1, "name": "S"}], "Review": {"State": "corrected"}}
    content = mask.read_bytes()
    mask.unlink()
    write_owned_label(mask, content, record)
    with pytest.raises(ValueError, match=r"sub-001_dseg\.nii\.gz: its JSON names structures that .* \(S\)"):
        build_datalist(folder, tmp_path / "d.json", anatomy=cord, **settings)
    build_datalist(folder, tmp_path / "d.json", **settings).check_anatomy(MRSPINESEG)


def test_a_label_map_on_another_grid_than_its_scan_is_refused_when_the_datalist_is_made(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "scans", 4, unlabeled=1)
    mask = folder / "sub-002_dseg.nii.gz"
    nib.save(nib.Nifti1Image(label(2, 3), np.diag([1, 1, 2, 1])), mask)
    with pytest.raises(InvalidVolumeError, match=r"sub-002_dseg.nii.gz: found an affine that is 1 apart"):
        build_datalist(folder, tmp_path / "d.json", val=1, test=1)
    save(mask, label(2, 3)[:1])
    with pytest.raises(InvalidVolumeError, match=r"a label map of \(1, 6, 6\) voxels; expected \(2, 6, 6\)"):
        build_datalist(folder, tmp_path / "d.json", val=1, test=1)
    bare = nib.Nifti1Image(label(2, 3), None)
    bare.header["pixdim"][1:4] = 0
    nib.save(bare, mask)
    build_datalist(folder, tmp_path / "d.json", val=1, test=1)


def test_label_maps_that_number_the_spine_from_above_are_named(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "scans", 4, unlabeled=1)
    spine = np.zeros((2, 6, 6), np.uint8)
    spine[:, 2] = [1, 2, 3, 4, 5, 6]  # from below: S, L5 to L1
    for number in range(1, 5):
        save(folder / f"sub-{number:03d}_dseg.nii.gz", spine[:, :, ::-1] if number == 2 else spine)
    built = build_datalist(folder, tmp_path / "d.json", val=1, test=1)
    (told,) = [warning for warning in built.warnings if "from above" in warning]
    assert told.startswith("1 label maps number the structures from above, where the anatomy (1 is S, 11 is L5/S, 2 is")
    assert told.endswith("sub-002_dseg.nii.gz")


def test_recorded_classes_spare_reading_and_unlabeled_labels_are_never_read(tmp_path: Path) -> None:
    gone = tmp_path / "not_there.nii"
    everything = tuple(range(1, MRSPINESEG.num_classes))
    assert missing_classes(Datalist(training=(Entry(gone, gone, "a", everything), Entry(gone, None, "b")))) == ()


def test_sessions_of_a_patient_stay_on_one_side(tmp_path: Path) -> None:
    for k in range(1, 7):
        for session in ("01", "02"):
            stem = f"sub-{k:02d}_ses-{session}"
            anat = tmp_path / f"sub-{k:02d}" / f"ses-{session}" / "anat"
            save(anat / f"{stem}_T2w.nii.gz", image(10 * k + int(session)))
            save(tmp_path / "derivatives" / "manual" / f"sub-{k:02d}" / f"{stem}_dseg.nii.gz", label(2))
    built = build_datalist(tmp_path, tmp_path / "d.json", val=1, test=2, labeled=2)
    assert (len(built.validation), len(built.test), len(built.labeled), len(built.unlabeled)) == (2, 4, 4, 2)
    assert len({e.subject for e in built.test}) == 4 and len({e.subject[:6] for e in built.test}) == 2


@pytest.mark.parametrize("name", ["sub-0{}_ses-0{}_0000", "p{}_2020010{}_0000"])
def test_sessions_and_dates_of_nnunets_layout_are_scans_of_one_patient(tmp_path: Path, name: str) -> None:
    for patient in range(1, 6):
        for session in (1, 2):
            case = name.format(patient, session)
            save(tmp_path / "imagesTr" / f"{case}.nii.gz", image(10 * patient + session))
    scans = find_scans(tmp_path).scans
    assert len(scans) == 10 and len({scan.patient for scan in scans}) == 5


def test_the_only_label_map_beside_the_only_scan_is_its_own(tmp_path: Path) -> None:
    for patient in range(4):
        save(tmp_path / f"P{patient}" / "scan.nii.gz", image(patient))
        save(tmp_path / f"P{patient}" / "spine_seg.nii.gz", label(2))
    save(tmp_path / "P3" / "other_seg.nii.gz", label(3))
    found = find_scans(tmp_path)
    assert [scan.label and scan.label.name for scan in found.scans] == [*["spine_seg.nii.gz"] * 3, None]
    assert any(w.startswith("3 label maps have another name than the only scan beside them") for w in found.warnings)
    assert any(w.startswith("2 label maps belong to no scan") for w in found.warnings)


@pytest.mark.parametrize(
    "names",
    [
        ("sub-01_T1w", "sub-01_T2w", "sub-01_T1w_dseg"),  # the label map has a scan of its own
        ("sub-01_T2w", "sub-01_T1w_dseg"),
        ("sub-01_T2w", "sub-02_dseg"),
    ],
)
def test_a_label_map_alone_is_not_that_of_another_contrast_or_patient(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(tmp_path / "p1" / f"{name}.nii.gz", label(2) if name.endswith("dseg") else image(len(name)))
    assert [scan.label for scan in find_scans(tmp_path).scans] == [None]


def test_labeled_scans_behind_those_of_another_contrast_are_named(tmp_path: Path) -> None:
    for patient in range(4):
        save(tmp_path / f"sub-{patient}_T1w.nii.gz", image(patient))
        save(tmp_path / f"sub-{patient}_dseg.nii.gz", label(2))
    save(tmp_path / "sub-9_T2w.nii.gz", image(9))
    with pytest.raises(DatalistError, match=r"no \*_T2w scans and are left out: .*sub-0_T1w"):
        build_datalist(tmp_path, tmp_path / "d.json")


def test_folders_of_several_scans_that_count_as_patients_are_named(tmp_path: Path) -> None:
    for patient in "abc":
        for scan in range(2):
            save(tmp_path / patient / f"study{ord(patient) + 100 * scan}.nii.gz", image(ord(patient) + 100 * scan))
    found = find_scans(tmp_path)
    assert len({scan.patient for scan in found.scans}) == 6
    (warning,) = found.warnings
    assert warning.startswith("3 folders hold scans of several patients, as the names have it (a: study197, study97)")
    for number in range(20):
        save(tmp_path / "d" / f"case{number}.nii.gz", image(500 + number))
    for patient in "bc":
        shutil.rmtree(tmp_path / patient)
    assert find_scans(tmp_path).warnings == (), "folders of many scans are those of a split"


@pytest.mark.parametrize("layout", ["{}_T2w.nii.gz {}_dseg.nii.gz", "imagesTr/{}_0000.nii.gz labelsTr/{}.nii.gz"])
def test_label_maps_of_cps4_segment_are_labels_once_a_person_stands_for_them(tmp_path: Path, layout: str) -> None:
    records = {1: {}, 2: {"Review": {"State": "corrected"}}, 3: {"Review": {"State": "wrong"}}, 4: {}}
    for number, record in records.items():
        scan, mask = (tmp_path / name for name in layout.format(f"sub-{number}", f"sub-{number}").split())
        save(scan, image(number))
        write_owned_label(mask, save(mask.with_name(f"beside_{mask.name}"), label(2)).read_bytes(), record)
        mask.with_name(f"beside_{mask.name}").unlink()
    save(mask, label(3))  # the last one was edited since
    found = find_scans(tmp_path)
    assert [scan.subject for scan in found.scans if scan.label] == ["sub-2", "sub-4"] and len(found.scans) == 4
    assert any(w.startswith("2 label maps were made by this program, accepted by no person") for w in found.warnings)


def test_nnunets_folder_of_data_sets_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "Dataset001_Spine" / "imagesTr" / "a_0000.nii.gz", image(1))
    with pytest.raises(DatalistError, match=r"data sets in nnU-Net's layout \(Dataset001_Spine\)"):
        find_scans(tmp_path)
    save(tmp_path / "sub-1_T2w.nii.gz", image(2))
    save(tmp_path / "sub-1_dseg.nii.gz", label(2))
    assert "sub-1" in [scan.subject for scan in find_scans(tmp_path).scans], "a data set with a copy of another form"
    (tmp_path / "sub-1_T2w.nii.gz").unlink()
    (tmp_path / "sub-1_dseg.nii.gz").unlink()
    assert len(find_scans(tmp_path / "Dataset001_Spine").scans) == 1


def test_nnunet_layout_keeps_its_test_folder(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / "imagesTr" / f"case_{k}_0000.nii.gz", image(k))
        save(tmp_path / "labelsTr" / f"case_{k}.nii.gz", label(2))
    for k in (7, 8):
        save(tmp_path / "imagesTs" / f"case_{k}_0000.nii.gz", image(k))
    save(tmp_path / "labelsTs" / "case_7.nii.gz", label(2))
    built = build_datalist(tmp_path, tmp_path / "d.json", val=1)
    assert [e.subject for e in built.test] == ["case_7"] and "is not used" not in str(built.warnings)
    asked = build_datalist(tmp_path, tmp_path / "d.json", val=1, test=2)
    assert "test=2 is not used: the test patients are the 1 of imagesTs and labelsTs" in asked.warnings
    assert [e.subject for e in asked.test] == ["case_7"]
    assert (len(built.labeled), len(built.validation)) == (3, 1)
    assert any("1 test scans have no label map" in w and "case_8_0000" in w for w in built.warnings)


@pytest.mark.parametrize("layout", ["{}_T2w.nii.gz {}_dseg.nii.gz", "imagesTr/{}_0000.nii.gz labelsTr/{}.nii.gz"])
def test_links_that_lead_to_no_file_are_told(layout: str, tmp_path: Path) -> None:
    """A clone of DataLad whose files are not fetched yet; its own folders are hidden."""
    images, labels = layout.split()
    for k in range(3):
        save(tmp_path / images.format(f"sub-{k}"), image(k))
        save(tmp_path / labels.format(f"sub-{k}"), label(2))
    save(tmp_path / ".git/annex/objects/MD5E-s1.nii.gz", image(7))
    lost = tmp_path / labels.format("sub-1")
    lost.unlink()
    lost.symlink_to(".git/annex/objects/MD5E-s2.nii.gz")
    found = find_scans(tmp_path)
    assert [scan.label is not None for scan in found.scans] == [True, False, True]
    (told,) = [warning for warning in found.warnings if "links lead to no file" in warning]
    assert told.startswith("1 ") and "datalad get" in told and told.endswith(f": {lost}")


def test_a_bids_data_set_gives_its_own_scans_and_the_label_maps_of_its_derivatives(tmp_path: Path) -> None:
    """Images that were made from the scans, or copied, would be unlabeled copies of the labeled ones."""
    for k in range(3):
        place = f"sub-{k}/anat/sub-{k}_T2w.nii.gz"
        for folder, array in (("", image(k)), ("sourcedata", image(k)), ("derivatives/n4", image(k) + 1)):
            save(tmp_path / folder / place, array)
        save(tmp_path / "derivatives" / "labels" / place.replace("_T2w", "_T2w_dseg"), label(2))
    assert len(find_scans(tmp_path).scans) == 9, "without the file that says BIDS, folders have no meaning"
    (tmp_path / "dataset_description.json").write_text("{}")
    found = find_scans(tmp_path)
    assert [(scan.subject, scan.label is not None) for scan in found.scans] == [(f"sub-{k}", True) for k in range(3)]
    assert all(scan.image.parent.parent.parent == tmp_path for scan in found.scans)
    only_made = tmp_path / "derivatives" / "alone"
    save(only_made / "derivatives" / "n4" / "sub-9_T2w.nii.gz", image(9))
    (only_made / "dataset_description.json").write_text("{}")
    with pytest.raises(DatalistError, match=r"no scan found.*1 images below derivatives"):
        find_scans(only_made)
    (told,) = [warning for warning in found.warnings if "no scans of this BIDS data set" in warning]
    assert told.startswith("6 images below derivatives, sourcedata")


def test_a_label_map_without_the_name_of_one_is_no_unlabeled_scan(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    mask = np.zeros((4, 64, 64), np.uint8)
    mask[1:3, 10:30, 10:30] = 2
    for k in range(3):
        save(tmp_path / f"p{k}" / "T2.nii.gz", generator.integers(0, 900, (4, 64, 64)).astype(np.int16))
        save(tmp_path / f"p{k}" / "T2_seg.nii.gz", mask)
        for name in ("discs.nii.gz", "L1.nii.gz", "L2.nii", "L3.nii.gz"):
            save(tmp_path / f"p{k}" / name, mask.astype(np.int16))
        save(tmp_path / f"p{k}" / "T1.nii.gz", generator.integers(0, 900, (4, 64, 64)).astype(np.int16))
    found = find_scans(tmp_path)
    assert sorted(scan.image.name for scan in found.scans) == ["T1.nii.gz"] * 3 + ["T2.nii.gz"] * 3
    assert {scan.patient for scan in found.scans} == {"p0", "p1", "p2"}, "label maps do not say who is a patient"
    (told,) = [warning for warning in found.warnings if "whole numbers, few of them" in warning]
    assert told.startswith("12 files") and "L1.nii.gz" in told


def test_numbers_of_four_digits_in_imagestr_without_a_channel_0_are_told(tmp_path: Path) -> None:
    for k in range(1, 4):
        save(tmp_path / "imagesTr" / f"spine_{k:04d}.nii.gz", image(k))
        save(tmp_path / "labelsTr" / f"spine_{k:04d}.nii.gz", label(2))
    with pytest.raises(
        DatalistError, match=r"imagesTr holds spine_0001\.nii\.gz and 2 more, of which none ends in _0000"
    ):
        find_scans(tmp_path)


def test_all_label_maps_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 6)
    for k in (2, 4):
        save(folder / f"sub-{k:03d}_dseg.nii.gz", label(77))
    with pytest.raises(DatalistError, match=r"2 label maps cannot be used: .*sub-002_dseg.*sub-004_dseg"):
        build_datalist(folder, tmp_path / "datalist.json")


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, scandir = make_pairs(tmp_path / "data", 3), os.scandir
    (folder / "locked").mkdir()  # as lost+found is, at the top of a disk

    def refused(place):  # root, as whom tests may run, reads every folder
        if str(place).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    assert len(find_scans(folder).scans) == 3
    assert "locked: a folder that cannot be read (Permission denied), and is left out" in caplog.text


def test_identical_voxels_on_two_sides_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / f"sub-{k}_T2w.nii.gz", image(0))
        save(tmp_path / f"sub-{k}_dseg.nii.gz", label(2))
    with pytest.raises(LeakError, match="the same image content is on two sides"):
        build_datalist(tmp_path, tmp_path / "d.json", val=0, test=2)
    assert not list(tmp_path.glob("d.json*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labeled_share": 0}, "labeled share is 0"),
        ({"labeled_share": 120}, "labeled share is 120"),
        ({"labeled": 9}, "9 labeled patients asked for; expected 1 to 4"),
        ({"val": 2.5}, "val is 2.5"),
        ({"test": -1}, "test is -1"),
        ({"val": float("nan")}, "val is nan; expected a share below 1"),
        ({"test": float("inf")}, "test is inf; expected a share below 1"),
        ({"unannotated": [1, 20, 0]}, r"--unannotated\) has \[0, 20\]; expected codes of .* 1 \(S\), 2 \(L5\)"),
        ({"val": 3, "test": 2}, "only 5 patients have labels"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    make_pairs(tmp_path, 5)
    with pytest.raises(DatalistError, match=message):
        build_datalist(tmp_path, tmp_path / "d.json", **{"val": 1, "test": 0, **settings})


def test_folders_without_scans_or_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match="no such folder"):
        build_datalist(tmp_path / "none", tmp_path / "d.json")
    with pytest.raises(DatalistError, match=r"no scan found.*cps4 convert"):
        build_datalist(tmp_path, tmp_path / "d.json")
    save(tmp_path / "a_T2w.nii.gz", image(0))
    with pytest.raises(DatalistError, match="no scan has a label map"):
        build_datalist(tmp_path, tmp_path / "d.json")


@pytest.mark.parametrize(("patients", "sides"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1))])
def test_few_patients_still_get_a_validation_patient_or_are_told(tmp_path: Path, patients: int, sides: tuple) -> None:
    built = build_datalist(make_pairs(tmp_path, patients, unlabeled=1), tmp_path / "d.json")
    assert (len(built.labeled), len(built.validation), len(built.test)) == sides
    assert any("training refuses" in w for w in built.warnings) == (patients == 1)


def test_all_scans_labeled_is_said_to_be_for_supervised_alone(tmp_path: Path) -> None:
    built = build_datalist(make_pairs(tmp_path, 4), tmp_path / "d.json")
    assert any("no unlabeled scan" in w and "'supervised'" in w for w in built.warnings)


def test_codes_outside_the_anatomy_name_the_file(tmp_path: Path) -> None:
    make_pairs(tmp_path, 3)
    save(tmp_path / "sub-002_dseg.nii.gz", label(201))
    with pytest.raises(ValueError, match=r"sub-002_dseg.*201"):
        build_datalist(tmp_path, tmp_path / "d.json")


def test_scans_reserved_for_testing_are_not_drawn_from() -> None:
    scans = [Scan(Path(f"{n}.nii"), Path(f"{n}_l.nii"), n, n, held_out=n == "t") for n in "abct"]
    sides = split_patients(scans, {n: (2,) for n in "abct"}, val=1, test=2, rng=np.random.default_rng(0))
    assert sides["t"] == "test" and sorted(sides.values()).count("test") == 1


def test_a_subset_has_at_least_one_patient() -> None:
    assert [subset_size(18, share) for share in (5, 10, 25, 50, 100)] == [1, 2, 4, 9, 18]
    assert subset_size(3, 5) == 1


def test_a_datalist_is_made_again_but_not_over_one_that_was_edited(tmp_path: Path) -> None:
    folder, out = make_pairs(tmp_path / "scans", 5), tmp_path / "d.json"
    build_datalist(folder, out, val=1, test=1)
    build_datalist(folder, out, val=1, test=1, seed=3)
    assert "seed 3" in out.read_text()
    edited = out.read_text().replace('"unannotated": []', '"unannotated": [1]')
    assert edited != out.read_text()
    out.write_text(edited)
    with pytest.raises(FileExistsError, match=r"d\.json exists and is no datalist made by this command, or was edited"):
        build_datalist(folder, out, val=1, test=1)
    assert out.read_text() == edited


def test_a_file_that_is_no_datalist_is_not_overwritten(tmp_path: Path) -> None:
    make_pairs(tmp_path, 3)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"notes\.json exists and is no datalist"):
        build_datalist(tmp_path, tmp_path / "notes.json", val=1, test=0)
    assert (tmp_path / "notes.json").read_text() == "{}"


def test_a_patient_with_a_reserved_test_scan_is_not_trained_on(tmp_path: Path) -> None:
    """Whichever of the two scans comes first by name."""
    for number, (reserved, other) in enumerate([("ses-1", "ses-2"), ("ses-2", "ses-1")]):
        folder = tmp_path / str(number)
        for k, (side, name) in enumerate([("Ts", f"sub-01_{reserved}"), ("Tr", f"sub-01_{other}"), ("Tr", "sub-02")]):
            save(folder / f"images{side}" / f"{name}_0000.nii.gz", image(k))
            save(folder / f"labels{side}" / f"{name}.nii.gz", label(2))
        datalist = build_datalist(folder, folder / "datalist.json", val=0, test=0)
        assert [entry.image.name for entry in datalist.training] == ["sub-02_0000.nii.gz"]
        assert {entry.image.parent.name for entry in datalist.test} == {"imagesTs", "imagesTr"}
        (told,) = [warning for warning in datalist.warnings if "reserves another scan" in warning]
        assert told.startswith("1 scans of imagesTr are not trained on") and f"sub-01_{other}_0000" in told


def test_unlabeled_scans_of_patients_for_validation_or_test_are_named(tmp_path: Path) -> None:
    for k, name in enumerate(["sub-01_ses-1", "sub-02_ses-1"]):
        save(tmp_path / f"{name}_T2w.nii.gz", image(k))
        save(tmp_path / f"{name}_dseg.nii.gz", label(2))
        save(tmp_path / f"{name}-b_T2w.nii.gz".replace("1-b", "2"), image(10 + k))
    datalist = build_datalist(tmp_path, tmp_path / "datalist.json", val=1, test=0)
    (held,) = datalist.validation
    (told,) = [warning for warning in datalist.warnings if "without a label map are left out" in warning]
    assert told.startswith("1 scans") and told.endswith(held.image.name.replace("ses-1", "ses-2"))


def test_two_contrasts_of_a_patient_are_two_cases_of_nnunet(tmp_path: Path) -> None:
    for patient in range(3):
        for number, contrast in enumerate(("T1w", "T2w")):
            case = f"sub-{patient}_{contrast}"
            save(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", image(10 * patient + number))
            save(tmp_path / "labelsTr" / f"{case}.nii.gz", label(2 + number))
    found = find_scans(tmp_path)
    assert [scan.subject for scan in found.scans] == [f"sub-{p}_{c}" for p in range(3) for c in ("T1w", "T2w")]
    assert all(scan.label.name == f"{scan.subject}.nii.gz" for scan in found.scans) and not found.warnings
    assert {scan.patient for scan in found.scans} == {"sub-0", "sub-1", "sub-2"}
    datalist = build_datalist(tmp_path, tmp_path / "d.json", val=1, test=0)
    assert len(datalist.validation) == 2 and len(load_datalist(tmp_path / "d.json").training) == 4


def test_two_label_maps_of_a_scan_in_nnunets_layout_are_an_error(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "a_0000.nii.gz", image(1))
    save(tmp_path / "labelsTr" / "a.nii.gz", label(2))
    save(tmp_path / "labelsTr" / "a.nii", label(3))
    with pytest.raises(DatalistError, match=r"a_0000\.nii\.gz: 2 label maps fit: .*labelsTr.*expected one"):
        build_datalist(tmp_path, tmp_path / "datalist.json", val=0, test=0)


def test_a_datalist_behind_a_symbolic_link_finds_its_scans(tmp_path: Path) -> None:
    """From a linked folder, a step up leads out of the folder that it leads to."""
    scans = make_pairs(tmp_path / "project", 4)
    (tmp_path / "disk" / "scratch" / "lists").mkdir(parents=True)
    (tmp_path / "scratch").symlink_to(tmp_path / "disk" / "scratch")
    out = tmp_path / "scratch" / "lists" / "datalist.json"
    build_datalist(scans, out, val=1, test=0)
    for folder in (out, out.resolve()):
        assert len(load_datalist(folder).training) == 3
