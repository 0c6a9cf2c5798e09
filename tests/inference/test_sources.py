from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cps4_monai.data.volume import looks_like_label_map
from cps4_monai.inference.folder_search import search_folder
from cps4_monai.inference.items import inference_items
from cps4_monai.inference.sources import find_sources


@pytest.fixture()
def touch(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    return make


def _names(found):
    return [scan.name for scan in found.scans]


def test_folders_are_searched_and_mirrored(touch):
    root = touch("a/scan.nii.gz", "b/c/scan.nii", "b/notes.txt", ".hidden/scan.nii.gz", "a/._scan.nii.gz")
    found = find_sources([root])
    assert _names(found) == ["a/scan", "b/c/scan"] and not found.failures and not found.skipped


def test_label_maps_are_skipped_by_name_and_said_so(touch):
    root = touch("s_T2w.nii.gz", "s_dseg.nii.gz", "s_mask.nii.gz", "mask_case1.nii.gz", "Segmentation.nii.gz")
    found = find_sources([root])
    assert _names(found) == ["s_T2w"]
    assert len(found.skipped) == 4 and all("label map" in reason for _, reason in found.skipped)


def test_images_in_other_formats_are_skipped_and_said_so(touch):
    others = ["b.mha", "c.MHD", "d.nrrd", "e.nhdr", "f.hdr", "g.img", "h.mgz", "i.nii.bz2", "j.dcm", "k.IMA"]
    root = touch("a.nii.gz", "c.raw", "f.img", "notes.txt", *others)
    found = find_sources([root])
    assert _names(found) == ["a"] and not found.failures
    assert sorted(path.name for path, _ in found.skipped) == others
    assert all("Fix: convert it to NIfTI" in reason for _, reason in found.skipped)


def test_a_folder_with_other_formats_only_is_an_error_that_names_them(touch):
    root = touch("p1/t2.mha", *(f"p2/{n}.mgz" for n in range(5)), "masks/p1_mask.mha")
    ((path, reason),) = find_sources([root]).failures
    assert path == root and "p1/t2.mha, p2/0.mgz" in reason and "p2/4.mgz" not in reason
    assert "and 1 more. Fix: convert them to NIfTI" in reason and "masks" not in reason


def test_segmentations_in_other_formats_are_no_scans_and_ours_are_not_told(touch):
    root = touch("a_T2w_dseg.nii.gz", "a_T2w.seg.nrrd", "b.seg.nrrd")
    digest = hashlib.sha256(b"x").hexdigest()
    sidecar = {"GeneratedBy": [{"Name": "cps4_monai"}], "Sources": ["a_T2w.nii.gz"], "Sha256": digest}
    (root / "a_T2w_dseg.json").write_text(json.dumps(sidecar))
    told = {path.name: reason for path, reason in find_sources([root]).skipped}
    assert told == dict.fromkeys(["a_T2w_dseg.nii.gz", "b.seg.nrrd"], "its name says label map")


@pytest.mark.parametrize("name", ["m{}.dcm", "IM{}", "1.2.840.{}"])
def test_dicom_files_between_files_of_other_kinds_are_found(touch, name):
    root = touch(*(f"0_{i:03}.{end}" for i in range(50) for end in ("thumb", "xml", "note")), "z.thumb", "zz.log")
    dicom = b"\0" * 128 + b"DICM"
    for i in range(3):
        (root / name.format(i)).write_bytes(dicom)
    assert search_folder(root).dicom == [root]


def test_dicom_files_with_their_ending_are_found_behind_many_files_without_one(touch):
    root = touch(*(f"A{i:04}" for i in range(50)), "z")
    (root / "m.dcm").write_bytes(bytes(128) + b"DICM")
    assert search_folder(root).dicom == [root]


def test_dicom_files_behind_many_images_in_other_formats_are_found(touch):
    root = touch(*(f"{n}.mha" for n in range(6)), "z.mha", "s1")
    (root / "s1").write_bytes(bytes(128) + b"DICM")
    assert search_folder(root).dicom == [root]


def test_a_file_that_is_named_is_taken_whatever_its_name(touch):
    root = touch("s_dseg.nii.gz")
    assert _names(find_sources([root / "s_dseg.nii.gz"])) == ["s_dseg"]


def test_four_digits_without_a_channel_0_beside_them_number_the_scans(touch):
    found = search_folder(touch("imagesTs/spine_0001.nii.gz", "imagesTs/spine_0002.nii.gz"))
    assert [path.name for path in found.scans] == ["spine_0001.nii.gz", "spine_0002.nii.gz"] and not found.skipped


def test_further_channels_of_nnunet_are_skipped_and_said_so(touch):
    names = ("A_0000.nii.gz", "A_0001.nii.gz", "B_0001.nii.gz")
    root = touch(*(f"imagesTs/{name}" for name in names), "scans/case_0001.NII.GZ")
    found = find_sources([root])
    assert _names(found) == ["imagesTs/A_0000", "scans/case_0001"]
    assert [(p.name, why[:14]) for p, why in found.skipped] == [
        ("A_0001.nii.gz", "channel 1 of A"),
        ("B_0001.nii.gz", "channel 1 of B"),
    ]


def test_contents_of_label_maps():
    label = np.zeros((4, 30, 30), np.float32)
    label[1:3, 5:20, 5:20] = 7
    assert looks_like_label_map(label) and looks_like_label_map(label.astype(np.float32) * 2)
    assert not looks_like_label_map(label + 0.5) and not looks_like_label_map(label - 1)
    assert not looks_like_label_map(np.arange(3600).reshape(4, 30, 30).astype(np.float32))


def test_bids_gives_its_t2w_scans_and_leaves_derivatives_out(touch):
    root = touch(
        "dataset_description.json",
        "sub-1/anat/sub-1_T2w.nii.gz",
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-2/ses-1/anat/sub-2_ses-1_T2w.nii.gz",
        "derivatives/x/sub-1_T2w.nii.gz",
        "sourcedata/sub-1_T2w.nii.gz",
    )
    found = find_sources([root])
    assert _names(found) == ["sub-1/anat/sub-1_seg-spine", "sub-2/ses-1/anat/sub-2_ses-1_seg-spine"]
    assert [p.name for p, _ in found.skipped] == ["sub-1_T1w.nii.gz"]


def test_the_output_folder_inside_an_input_is_not_searched(touch):
    root = touch("scan.nii.gz", "out/old.nii.gz")
    assert _names(find_sources([root], root / "out")) == ["scan"]
    assert _names(find_sources([root], root)) == ["scan", "out/old"]


def test_one_name_in_two_folders_gets_two_files(touch):
    root = touch("a/scan.nii.gz", "b/scan.nii.gz", "c/x/scan.nii.gz")
    assert _names(find_sources([root / "a/scan.nii.gz", root / "b/scan.nii.gz"])) == ["a/scan", "b/scan"]
    assert _names(find_sources([root / "a", root / "b/scan.nii.gz"])) == ["a/scan", "b/scan"]
    assert _names(find_sources([root / "a", root / "c"])) == ["scan", "x/scan"]
    assert _names(find_sources([root / "a/scan.nii.gz"])) == ["scan"]


def test_two_sites_with_the_same_tree_are_kept_apart(touch):
    root = touch("site1/sub-1/s.nii.gz", "site1/sub-2/s.nii.gz", "site2/sub-1/s.nii.gz")
    assert _names(find_sources([root / "site1", root / "site2"])) == ["site1/sub-1/s", "site1/sub-2/s", "site2/sub-1/s"]


def test_two_files_that_would_share_one_output_are_told(touch):
    root = touch("scan.nii", "scan.nii.gz")
    found = find_sources([root])
    assert len(found.scans) == 1 and "expected one file for each" in found.failures[0][1]


def test_a_file_named_twice_is_segmented_once(touch, monkeypatch):
    root = touch("a/scan.nii.gz")
    monkeypatch.chdir(root)
    assert _names(find_sources([root, root / "a/scan.nii.gz", "a/scan.nii.gz"])) == ["a/scan"]


def test_datalists_give_their_test_scans(touch):
    root = touch("x/1.nii.gz", "x/2.nii.gz")
    entries = {"training": [{"image": "x/1.nii.gz"}], "test": [{"image": "x/2.nii.gz"}, {"image": "x/gone.nii.gz"}]}
    (root / "list.json").write_text(json.dumps(entries))
    assert _names(find_sources([root / "list.json"])) == ["x/2", "x/gone"]  # the missing one fails when it is read
    (root / "list.json").write_text(json.dumps({"training": [{"image": "x/1.nii.gz"}]}))
    assert _names(find_sources([root / "list.json"])) == ["x/1"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.nii.gz", "no such file"),
        ("scan.mha", "expected NIfTI"),
        ("empty", "no scan in this folder"),
        ("other.json", "expected an object with the lists"),
    ],
)
def test_inputs_that_cannot_be_used_are_told_and_the_rest_goes_on(touch, name, words):
    root = touch("scan.nii.gz", "scan.mha")
    (root / "empty").mkdir()
    (root / "other.json").write_text("{}")
    found = find_sources([root / name, root / "scan.nii.gz"])
    assert _names(found) == ["scan"] and words in found.failures[0][1]


def test_scans_under_another_tools_name_for_the_test_are_not_passed_over_in_silence(touch):
    root = touch("a_T2w.nii.gz", "b_T2w.nii.gz")
    content = {"testing": [{"image": "a_T2w.nii.gz"}], "training": [{"image": "b_T2w.nii.gz"}]}
    (root / "d.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"1 scans under 'testing', which is not read.*Fix: call that list 'test'"):
        inference_items(root / "d.json")
    found = find_sources([root / "d.json"])
    assert not found.scans and "under 'testing'" in found.failures[0][1]
    (root / "d.json").write_text(json.dumps({**content, "test": content["testing"]}))
    assert [Path(item["image"]).name for item in inference_items(root / "d.json")] == ["a_T2w.nii.gz"]


def test_the_plain_form_refuses_two_scans_of_one_name_and_folders_before_any_work(touch):
    root = touch("a.nii.gz", "a.nii", "b/a.nii.gz")
    (root / "d.json").write_text(json.dumps({"test": [{"image": "a.nii.gz"}, {"image": "b/a.nii.gz"}]}))
    assert len(inference_items(root / "d.json")) == 2
    (root / "d.json").write_text(json.dumps({"test": [{"image": "a.nii.gz"}, {"image": "a.nii"}]}))
    with pytest.raises(ValueError, match=r"would both be called a; expected one file for each\. Fix: rename one"):
        inference_items(root / "d.json")
    (root / "d.json").write_text(json.dumps({"test": [{"image": "b"}]}))
    with pytest.raises(ValueError, match=r"names folders as files: .*b; expected NIfTI files"):
        inference_items(root / "d.json")


def test_the_plain_form_needs_the_scans_that_it_segments_and_no_others(touch):
    root = touch("a_T2w.nii.gz", "b_T2w.nii.gz")
    content = {
        "training": [{"image": "gone_T2w.nii.gz", "label": "gone_dseg.nii.gz"}],
        "test": [{"image": "a_T2w.nii.gz", "label": "a_dseg.nii.gz"}],
    }
    (root / "d.json").write_text(json.dumps(content))
    assert inference_items(root / "d.json") == [{"image": str(root / "a_T2w.nii.gz")}]
    (root / "twice.json").write_text(json.dumps({**content, "test": content["test"] * 2}))
    with pytest.raises(ValueError, match=r"images listed twice: .*a_T2w\.nii\.gz; expected each once"):
        inference_items(root / "twice.json")
    (root / "a_T2w.nii.gz").unlink()
    with pytest.raises(
        ValueError, match=r"1 of 1 files are missing: .*a_T2w\.nii\.gz; expected them under .* correct the paths"
    ):
        inference_items(root / "d.json")
