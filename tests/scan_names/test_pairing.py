from __future__ import annotations

from pathlib import Path

from cps4_monai.scan_names import only_label_maps, pair_files, pairing

ROOT = Path("/data")


def pair(scans, files, files_root=ROOT):
    found = pair_files([ROOT / s for s in scans], ROOT, [files_root / f for f in files], files_root)
    by_name = {
        str(s.relative_to(ROOT)): [f.relative_to(files_root).as_posix() for f in fs] for s, fs in found.partners.items()
    }
    return by_name, [p.relative_to(files_root).as_posix() for p in found.unmatched], len(found.ambiguous)


def test_one_scan_one_label_map_wherever_it_lies():
    found, rest, _ = pair(
        ["sub-1/anat/sub-1_T2w.nii", "sub-2/anat/sub-2_T2w.nii"],
        ["derivatives/labels/sub-1/anat/sub-1_T2w_label-spine_dseg.nii", "x/sub-2_dseg.nii", "x/sub-3_dseg.nii"],
    )
    assert found == {
        "sub-1/anat/sub-1_T2w.nii": ["derivatives/labels/sub-1/anat/sub-1_T2w_label-spine_dseg.nii"],
        "sub-2/anat/sub-2_T2w.nii": ["x/sub-2_dseg.nii"],
    }
    assert rest == ["x/sub-3_dseg.nii"]


def test_equal_names_are_told_apart_by_the_folder_and_never_borrowed():
    scans = ["p1/t2.nii", "p2/t2.nii", "p3/t2.nii"]
    assert pair(scans, ["p1/t2_dseg.nii", "p2/seg.nii"])[0] == {
        "p1/t2.nii": ["p1/t2_dseg.nii"],
        "p2/t2.nii": ["p2/seg.nii"],
    }
    mirrored, _, _ = pair(scans, ["p1/t2_dseg.nii", "p3/t2_dseg.nii"], Path("/out"))
    assert mirrored == {"p1/t2.nii": ["p1/t2_dseg.nii"], "p3/t2.nii": ["p3/t2_dseg.nii"]}
    assert pair(scans, ["t2_dseg.nii"], Path("/out")) == ({}, ["t2_dseg.nii"], 0)


def test_another_contrast_is_another_scan():
    assert pair(["sub-1_T2w.nii"], ["sub-1_T1w_dseg.nii"])[1] == ["sub-1_T1w_dseg.nii"]


def test_the_same_description_decides_between_two_images_of_one_scan():
    found, _, _ = pair(["sub-1_desc-a_T2w.nii", "sub-1_desc-b_T2w.nii"], ["sub-1_desc-b_dseg.nii"])
    assert found == {"sub-1_desc-b_T2w.nii": ["sub-1_desc-b_dseg.nii"]}
    assert pair(["sub-1_desc-a_T2w.nii", "sub-1_desc-b_T2w.nii"], ["sub-1_dseg.nii"])[2] == 1


def test_a_label_map_beside_its_scan_comes_before_one_far_away():
    found, rest, _ = pair(["sub-1_T2w.nii"], ["sub-1_dseg.nii", "derivatives/sub-1_dseg.nii"])
    assert found == {"sub-1_T2w.nii": ["sub-1_dseg.nii"]} and rest == ["derivatives/sub-1_dseg.nii"]


def test_a_case_of_nnunet_that_ends_in_four_zeros():
    """labelsTr/case_0000 belongs to imagesTr/case_0000_0000, whose last digits are the channel; so do predictions."""
    labels = ["labelsTr/case.nii", "labelsTr/case_0000.nii"]
    images = ["imagesTr/case_0000.nii", "imagesTr/case_0000_0000.nii"]
    expected = dict(zip(images, ([label] for label in labels), strict=True))
    assert pair(images, labels) == (expected, [], 0)
    assert pair(images[1:], labels[1:]) == ({images[1]: [labels[1]]}, [], 0)
    predictions = ["case_0000_dseg.nii", "case_0000_0000_dseg.nii"]
    found, rest, _ = pair(labels, predictions, Path("/out"))
    assert found == dict(zip(labels, ([one] for one in predictions), strict=True)) and not rest
    assert pair(["imagesTr/a_0000.nii"], ["labelsTr/a_0000.nii"])[0] == {"imagesTr/a_0000.nii": ["labelsTr/a_0000.nii"]}


def test_label_maps_by_name_or_all_files_where_none_is_called_so():
    a, b = Path("a_dseg.nii"), Path("a.nii")
    assert only_label_maps([a, b]) == [a] and only_label_maps([b]) == [b]


def test_the_work_grows_with_the_files_not_with_their_square(monkeypatch):
    compared = []
    real = pairing._closeness
    monkeypatch.setattr(pairing, "_closeness", lambda *places: compared.append(1) or real(*places))
    for scan, label in (("t2.nii", "seg.nii"), ("t2.nii", "t2_dseg.nii")):
        for files_root in (ROOT, Path("/labels")):
            compared.clear()
            scans, files = [f"p{n}/{scan}" for n in range(100)], [f"p{n}/{label}" for n in range(100)]
            found, rest, ambiguous = pair(scans, files, files_root)
            assert len(found) == 100 and not rest and not ambiguous and len(compared) <= 200
