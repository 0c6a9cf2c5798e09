"""Corrections of a run: everything follows, the original comes back, and what cannot be is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai import Segmenter, segment_scans
from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED
from cps4_monai.commands.datalist import datalist
from cps4_monai.commands.relabel import relabel
from cps4_monai.data.label_file import label_bytes
from cps4_monai.data.label_ownership import ForeignFileError, is_described, is_ours, write_owned_label
from cps4_monai.data.label_review import is_unreviewed_prediction, reviewed_label
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.corrections import Correction, CorrectionsError, read_corrections
from cps4_monai.inference.masks import report_masks
from cps4_monai.inference.relabel import relabel as apply
from cps4_monai.inference.relabel import restore_original
from cps4_monai.inference.relabel_run import relabel_file


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def call(*arguments):
    return CliRunner().invoke(relabel, [str(a) for a in arguments])


def shown(page):
    """Scans that the viewer of a page shows, without their label maps."""
    scans = re.findall(r'class="viewer-scan">(.+?)</script>', page.read_text(encoding="utf-8"))
    return [json.loads(scan)["scan"] for scan in scans]


def edit(mask):
    """What a person does to a label map in another program: a structure less."""
    image = nib.load(mask)
    edited = np.asarray(image.dataobj).copy()
    edited[edited == 12] = 0
    nib.save(nib.Nifti1Image(edited, image.affine, image.header), mask)


def codes(path):
    return np.asarray(nib.load(path).dataobj)


def record(folder, name="a_T2w"):
    return json.loads((folder / f"{name}_dseg.json").read_text())


@pytest.fixture()
def out(bundle_dir, make_scan, tmp_path):
    for seed, name in enumerate("ab"):
        make_scan(seed=seed).save(tmp_path / "in" / f"{name}_T2w.nii.gz")
    segment_scans(tmp_path / "in", tmp_path / "out", weights=bundle_dir, device="cpu")
    return tmp_path / "out"


def test_a_shift_reaches_everything_and_undo_brings_all_back(out):
    mask = out / "a_T2w_dseg.nii.gz"
    names = ("a_T2w_dseg.nii.gz", "a_T2w_dseg.json", "structures.csv", "scans.csv", "b_T2w_dseg.json")
    before = {name: (out / name).read_bytes() for name in names}
    was, affine, picture = codes(mask), nib.load(mask).affine, (out / "a_T2w_qc.png").read_bytes()
    lowest = rows(out / "scans.csv")[0]["lowest"]
    result = call(mask, "--shift", "1", "--by", "Reader 1")
    assert result.exit_code == 0 and "L5 is L4" in result.output and "true sacrum" not in result.output
    assert np.array_equal(codes(mask), np.where(was > 0, was + 1, 0)) and np.array_equal(nib.load(mask).affine, affine)
    told = record(out)
    last = told["Corrections"][-1]
    assert told["Sha256"] == hashlib.sha256(mask.read_bytes()).hexdigest() and told["Review"]["State"] == "corrected"
    assert last["By"] == "Reader 1" and last["Renamed"]["L5"] == "L4" and last["Date"]
    assert last["Before"]["Sha256"] == hashlib.sha256(before["a_T2w_dseg.nii.gz"]).hexdigest()
    assert last["WeightsSha256"] == told["Weights"]["Sha256"]
    scans = {row["scan"]: row for row in rows(out / "scans.csv")}
    assert lowest == "L5/S" and scans["a_T2w"]["lowest"] == "L4/L5" and scans["a_T2w"]["review"] == "corrected"
    assert scans["b_T2w"]["lowest"] == "L5/S" and not scans["b_T2w"]["review"] and scans["a_T2w"]["margin"] == ""
    states = {r["name"]: r["state"] for r in rows(out / "structures.csv") if r["scan"] == "a_T2w"}
    assert states["L5"] == "absent" and states["L4"] == "present"
    assert (out / "a_T2w_qc.png").read_bytes() != picture
    assert call(mask, "--undo").exit_code == 0
    assert {name: (out / name).read_bytes() for name in names} == before
    assert not list(out.glob(".original-*")) and call(mask, "--undo").exit_code == 1


def test_scans_given_from_another_folder_are_found_again(bundle_dir, make_scan, tmp_path, monkeypatch):
    """The table has paths as they were given; where another scan lies there, it is not shown."""
    make_scan(seed=1).save(tmp_path / "in" / "a_T2w.nii.gz")
    make_scan(seed=2).save(tmp_path / "out" / "in" / "a_T2w.nii.gz")
    monkeypatch.chdir(tmp_path)
    segment_scans("in", "out", weights=bundle_dir, device="cpu")
    table, page = (tmp_path / "out" / "scans.csv"), (tmp_path / "out" / "report.html")
    assert [row["source"] for row in rows(table)] == ["in/a_T2w.nii.gz"]
    assert call("out/a_T2w_dseg.nii.gz", "--accept").exit_code == 0
    assert [row["source"] for row in rows(table)] == ["in/a_T2w.nii.gz"]
    before = shown(page)
    monkeypatch.chdir(tmp_path / "out")
    assert call("a_T2w_dseg.nii.gz", "--shift", "1").exit_code == 0
    assert [row["source"] for row in rows(table)] == [str(tmp_path / "in/a_T2w.nii.gz")]
    assert shown(page) == before and len(before) == 1


ONE_TOO_LOW = {2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 11: 0, 12: 11, 13: 12, 14: 13, 15: 14}  # L5 is called S, and so on


def edited(mask, scan, table):
    """Codes of the label map that a person drew in the place of ours (the phantom's, renamed); the weights know S."""
    sidecar = mask.with_name("a_T2w_dseg.json")
    sidecar.write_text(sidecar.read_text().replace('"not_trained"', '"absent"'))
    made = scan.label.copy()
    for old, new in table.items():
        made[scan.label == old] = new
    image = nib.load(mask)
    nib.save(nib.Nifti1Image(made.astype(np.uint8), image.affine, image.header), mask)
    return made


def test_with_the_sacrum_in_view_levels_go_up_and_down(out, make_scan):
    mask, scan = out / "a_T2w_dseg.nii.gz", make_scan(seed=0)
    was = edited(mask, scan, ONE_TOO_LOW)
    up = call(mask, "--level", "S=L5")
    assert up.exit_code == 0 and "S is L5" in up.output and "the true sacrum, below, has no label now" in up.output
    assert np.array_equal(codes(mask), np.where(scan.label == 11, 0, scan.label))
    states = {r["name"]: r["state"] for r in rows(out / "structures.csv") if r["scan"] == "a_T2w"}
    assert states["S"] == "absent" and states["L5"] == "present"
    listed = CliRunner().invoke(datalist, [str(out), "--corrected", "-o", str(out / "d.json"), "--val", "0"])
    assert "1 label maps whose sacrum a person made a vertebra (a_T2w_dseg.nii.gz)" in listed.output, listed.output
    down = call(mask, "--level", "L5=S")
    assert down.exit_code == 0 and "L5 is S" in down.output
    assert np.array_equal(codes(mask), was)


def test_a_disc_that_comes_to_lie_in_the_sacrum_is_background_and_that_is_said(out, make_scan):
    mask = out / "a_T2w_dseg.nii.gz"
    was = edited(mask, make_scan(seed=0), {})
    down = call(mask, "--shift", "-1", "--wrong", "L5/S", "--wrong", "L4")
    assert down.exit_code == 0 and "L5/S is background" in down.output
    assert (was == 11).any() and not codes(mask)[was == 11].any() and (codes(mask)[was == 2] == 1).all()
    assert record(out)["Review"]["Wrong"] == [2]


def test_a_file_of_corrections_is_applied_once_and_what_cannot_be_is_told(out, tmp_path):
    path, hashes = tmp_path / "corrections.json", {n: record(out, n)["Sha256"] for n in ("a_T2w", "b_T2w")}
    scans = [
        {"scan": "a_T2w", "label_sha256": hashes["a_T2w"], "level": {"code": 2, "is": "L4"}, "accepted": True},
        {"scan": "b_T2w", "label_sha256": hashes["b_T2w"], "wrong": [3]},
        {"scan": "gone", "shift": 1},
    ]
    weights = record(out)["Weights"]["Sha256"]
    content = {"format": "cps4_monai.corrections", "version": 1, "weights_sha256": weights, "by": "R", "scans": scans}
    path.write_text(json.dumps(content))
    for told in ("2 applied, 1 refused", "0 applied, 2 applied before, 1 refused"):
        result = call(out, "--corrections", path)
        assert result.exit_code == 1 and "refused gone: no label map" in result.output
        assert told in result.output.splitlines()
    assert len(record(out)["Corrections"]) == 1 and record(out)["Review"]["State"] == "accepted"
    table = {row["scan"]: row for row in rows(out / "scans.csv")}
    assert "marked_wrong" in table["b_T2w"]["alarms"] and table["b_T2w"]["review"] == "wrong"
    scans[0]["shift"], scans[0]["label_sha256"] = 1, "0" * 64
    del scans[0]["level"]
    content["scans"] = scans[:1]
    path.write_text(json.dumps(content))
    assert "is not the label map that was looked at" in call(out, "--corrections", path).output
    listed = CliRunner().invoke(datalist, [str(out), "--corrected", "-o", str(out / "d.json"), "--val", "0"])
    assert listed.exit_code == 0 and "1 labeled, 1 unlabeled, 0 validation, 0 test" in listed.output
    (entry,) = [e for e in json.loads((out / "d.json").read_text())["training"] if e.get("labeled")]
    assert entry["label"] == "a_T2w_dseg.nii.gz" and entry["subject"] == "a"


@pytest.mark.parametrize("looked_at", [True, False], ids=["by its hash", "by who and when"])
def test_corrections_of_an_edited_label_map_are_applied_once_too(out, tmp_path, looked_at):
    """The page's corrections may be applied again after a kill; a shift that came twice would be a level too far."""
    mask, path = out / "a_T2w_dseg.nii.gz", tmp_path / "corrections.json"
    edit(mask)
    report_masks(out)
    shown_as = hashlib.sha256(mask.read_bytes()).hexdigest()
    assert shown_as in (out / "report.html").read_text(encoding="utf-8"), "the page says which one it shows"
    scan = {"scan": "a_T2w", "label_sha256": shown_as if looked_at else None, "shift": 1}
    head = {"format": "cps4_monai.corrections", "version": 1, "by": "R", "made": "2026-01-01T00:00:00+00:00"}
    path.write_text(json.dumps({**head, "scans": [scan]}))
    assert "1 applied" in call(out, "--corrections", path).output
    once = codes(mask)
    assert "0 applied, 1 applied before" in call(out, "--corrections", path).output
    assert np.array_equal(codes(mask), once) and len(record(out)["Corrections"]) == 1


def test_tables_of_the_run_follow_though_a_folder_within_has_tables_of_its_own(bundle_dir, make_scan, tmp_path):
    for name in ("p1/a_T2w", "p2/a_T2w"):
        make_scan().save(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu")
    report_masks(out / "p1")
    result = call(out / "p1" / "a_T2w_dseg.nii.gz", "--shift", "1")
    assert result.exit_code == 0 and str(out / "report.html") in result.output

    def of(table, scan):
        return [(r["name"], r["volume_ml"]) for r in rows(table) if r["scan"] == scan]

    shifted = of(out / "structures.csv", "p1/a_T2w")
    assert shifted == of(out / "p1" / "structures.csv", "a_T2w")
    assert shifted != of(out / "structures.csv", "p2/a_T2w"), "which is the same scan, as it was segmented"
    head = {"format": "cps4_monai.corrections", "version": 1, "by": "R", "made": "2026-01-01T00:00:00+00:00"}
    said = tmp_path / "corrections.json"
    said.write_text(json.dumps({**head, "scans": [{"scan": "a_T2w", "label_sha256": None, "accepted": True}]}))
    assert call(out / "p1", "--corrections", said).exit_code == 0
    assert [row["review"] for row in rows(out / "scans.csv")] == ["accepted", ""]


def test_without_a_picture_too_a_label_map_that_lies_elsewhere_than_its_scan_is_not_accepted(out):
    mask = out / "a_T2w_dseg.nii.gz"
    (out / "a_T2w_qc.png").unlink()
    image = nib.load(mask)
    other = nib.orientations.axcodes2ornt("RAS" if nib.aff2axcodes(image.affine) != tuple("RAS") else "LPS")
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), other))
    nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), mask)
    result = call(mask, "--accept")
    assert result.exit_code == 1 and "reorient the label map, not its header alone" in result.output


def test_impossible_corrections_change_nothing(out):
    mask = out / "a_T2w_dseg.nii.gz"
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    for arguments, words in (
        (["--shift", "-2"], "takes L5/S off the chain"),
        (["--level", "10=L5"], "T9 (code 10) is not in the label map"),
        (["--level", "L5=L3/L4"], "of the kind 'vertebra'"),
        (["--wrong", "T9"], "T9 is marked as wrong, but not in the label map"),
        (["--wrong", "L4", "--accept"], "accepted, and structures marked as wrong"),
        (["--level", "nonsense"], "expected CODE=NAME"),
        (["--shift", "0"], "changes no level"),
        (["--level", "L4=L4"], "changes no level"),
    ):
        result = call(mask, *arguments)
        assert result.exit_code == 1 and words in result.output, result.output
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_an_edited_label_map_is_accepted_as_it_is(out):
    mask = out / "a_T2w_dseg.nii.gz"
    edit(mask)
    edited = codes(mask)
    assert call(mask, "--accept").exit_code == 0
    table = {row["scan"]: row for row in rows(out / "scans.csv")}["a_T2w"]
    assert np.array_equal(codes(mask), edited) and table["review"] == "accepted" and not table["alarms"]
    assert record(out)["Corrections"][-1]["Before"]["EditedByHand"] is True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2, expected 1"),
        ({"format": "x"}, "no 'format'"),
        ({"more": 1}, "unknown keys"),
        ({"scans": [{"scan": "a"}]}, "nothing said"),
        ({"scans": [{"scan": "a", "shift": "1"}]}, "'shift' is '1'; expected a whole number"),
        ({"scans": [{"scan": "a", "shift": 1}, {"scan": "a", "shift": 2}]}, "a named twice"),
        ({"scans": [{"scan": "a", "shift": 1, "level": {"code": 2, "is": "L4"}}]}, "both a shift and a level"),
    ],
)
def test_files_that_are_no_corrections_are_refused(tmp_path, change, words):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"format": "cps4_monai.corrections", "version": 1, "scans": [], **change}))
    with pytest.raises(CorrectionsError, match=words):
        read_corrections(path)


def test_a_correction_keeps_what_the_run_told_of_all_else(out, bundle_dir, make_scan, tmp_path):
    make_scan().save(tmp_path / "in" / "c_seg.nii.gz")
    (tmp_path / "in" / "d.nii").write_bytes(b"no scan")
    assert call(out / "b_T2w_dseg.nii.gz", "--accept").exit_code == 0
    segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu", overwrite=True)
    before = {name: rows(out / name) for name in ("scans.csv", "failures.csv", "skipped.csv")}
    told = {row["scan"]: row["warnings"] for row in before["scans.csv"]}
    assert [row["reason"] for row in before["skipped.csv"]] == ["its name says label map"]
    assert len(before["failures.csv"]) == 1 and "a person's work" in told["b_T2w"]
    assert call(out / "a_T2w_dseg.nii.gz", "--shift", "1").exit_code == 0
    assert {name: rows(out / name) for name in ("failures.csv", "skipped.csv")} == {
        name: before[name] for name in ("failures.csv", "skipped.csv")
    }
    assert {row["scan"]: row["warnings"] for row in rows(out / "scans.csv")} == told
    assert call(out / "a_T2w_dseg.nii.gz", "--undo").exit_code == 0
    assert rows(out / "scans.csv") == before["scans.csv"]
    assert "its name says label map" in (out / "report.html").read_text()


@pytest.fixture()
def dicom_out(bundle_dir, dicom, make_scan, tmp_path):
    """Results of a DICOM series with all copies for other programs."""
    pytest.importorskip("highdicom", reason="highdicom of the extra `dicom` is not installed")
    pytest.importorskip("nrrd", reason="pynrrd of the extra `slicer` is not installed")
    slices = dicom.twin_of(make_scan(), FrameOfReferenceUID="1.2.3.99")
    folder = dicom.save_all(tmp_path / "in" / "a_T2w", slices)
    output = tmp_path / "out"
    segment_scans([folder], output, weights=bundle_dir, device="cpu", dicom_seg=True, seg_nrrd=True)
    return output


def names_in_copies(folder):
    """Structures of the copies, in their order, and by what the SEG says that they were made."""
    import highdicom
    import nrrd

    seg = highdicom.seg.segread(folder / "a_T2w_seg.dcm")
    told = [seg.get_segment_description(number) for number in seg.segment_numbers]
    header = nrrd.read_header(str(folder / "a_T2w.seg.nrrd"))
    in_nrrd = [header[f"Segment{n}_Name"] for n in range(len(told))]
    assert [one.segment_label for one in told] == in_nrrd
    return in_nrrd, {one.algorithm_type.value for one in told}


def names_in_mask(folder):
    return [MRSPINESEG[code].name for code in np.unique(codes(folder / "a_T2w_dseg.nii.gz")) if code]


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_scans_whose_names_are_no_utf8_follow_and_are_kept(bundle_dir, make_scan, tmp_path):
    odd = os.fsdecode(b"M\xfcller_T2w")
    for seed, name in enumerate(("a_T2w", odd)):
        make_scan(seed=seed).save(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu")
    before = {name: rows(out / name) for name in ("scans.csv", "structures.csv")}
    assert call(out / "a_T2w_dseg.nii.gz", "--accept").exit_code == 0
    after = {row["scan"]: row for row in rows(out / "scans.csv")}
    assert (after["a_T2w"]["review"], after["M\\xfcller_T2w"]["review"]) == ("accepted", "")
    assert after["M\\xfcller_T2w"] == before["scans.csv"][0] and rows(out / "failures.csv") == []
    assert rows(out / "structures.csv") == before["structures.csv"]
    relabel_file(out / f"{odd}_dseg.nii.gz", Correction(accepted=True))
    assert [row["review"] for row in rows(out / "scans.csv")] == ["accepted", "accepted"]
    assert relabel_file(out / f"{odd}_dseg.nii.gz", None).report == out / "report.html"
    assert rows(out / "scans.csv")[0] == before["scans.csv"][0]


def test_a_scan_that_the_tables_do_not_name_is_corrected_and_that_is_said(out, bundle_dir, tmp_path):
    segment_scans(tmp_path / "in" / "a_T2w.nii.gz", out, weights=bundle_dir, device="cpu")
    tables = (out / "scans.csv").read_bytes()
    result = call(out / "b_T2w_dseg.nii.gz", "--accept")
    assert result.exit_code == 0 and record(out, "b_T2w")["Review"]["State"] == "accepted"
    assert "without this scan" in result.output and f"cps4 report {out}" in result.output
    assert (out / "scans.csv").read_bytes() == tables
    (tmp_path / "elsewhere").mkdir()
    for suffix in ("nii.gz", "json"):
        shutil.copy(out / f"b_T2w_dseg.{suffix}", tmp_path / "elsewhere")
    (tmp_path / "scans.csv").write_text("scan,age\nb,40\n")
    assert "cps4 report" not in call(tmp_path / "elsewhere" / "b_T2w_dseg.nii.gz", "--accept").output, "not our table"
    report_masks(out)
    assert {row["scan"]: row["review"] for row in rows(out / "scans.csv")} == {"a_T2w": "", "b_T2w": "accepted"}


def test_copies_for_other_programs_follow_and_are_taken_back(dicom_out):
    import highdicom
    import nrrd

    mask, before = dicom_out / "a_T2w_dseg.nii.gz", names_in_copies(dicom_out)
    first = highdicom.seg.segread(dicom_out / "a_T2w_seg.dcm").SOPInstanceUID
    assert before == (names_in_mask(dicom_out), {"AUTOMATIC"}) and before[0][0] == "L5"
    assert call(mask, "--accept").exit_code == 0
    assert highdicom.seg.segread(dicom_out / "a_T2w_seg.dcm").SOPInstanceUID == first  # it says the same
    assert call(mask, "--shift", "1").exit_code == 0
    assert names_in_copies(dicom_out) == (names_in_mask(dicom_out), {"SEMIAUTOMATIC"})
    assert names_in_mask(dicom_out)[0] == "L4" and np.array_equal(
        nrrd.read(str(dicom_out / "a_T2w.seg.nrrd"))[0], codes(mask)
    )
    assert highdicom.seg.segread(dicom_out / "a_T2w_seg.dcm").SOPInstanceUID != first
    assert call(mask, "--undo").exit_code == 0 and names_in_copies(dicom_out) == before


def test_a_copy_that_cannot_follow_refuses_the_correction(dicom_out, tmp_path):
    (tmp_path / "in" / "a_T2w").rename(tmp_path / "gone")
    before = {p.name: p.read_bytes() for p in dicom_out.iterdir()}
    result = call(dicom_out / "a_T2w_dseg.nii.gz", "--shift", "1")
    assert result.exit_code == 1 and "its series 1.2.3.1 is not in" in result.output and "Fix: " in result.output
    (dicom_out / "a_T2w_seg.dcm").write_bytes(b"somebody else's")
    assert "did not write" in call(dicom_out / "a_T2w_dseg.nii.gz", "--shift", "1").output
    (dicom_out / "a_T2w_seg.dcm").write_bytes(before["a_T2w_seg.dcm"])
    assert {p.name: p.read_bytes() for p in dicom_out.iterdir()} == before


# Of every result a chance of 98 % (the log odds are 4) that it is of no use.
ALWAYS_UNUSUAL = {"failure": {"intercept": 4.0, "weights": {"kept": 0.0}}, "failure_limit": 0.5}


def test_an_unusual_contrast_stays_one_until_a_person_accepts(edited_bundle, make_scan, tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr("cps4_monai.report.pictures.write_names", lambda *drawn, **more: named.append(drawn))
    make_scan().save(tmp_path / "in" / "a_T2w.nii.gz")
    out = tmp_path / "out"
    segment_scans(tmp_path / "in", out, weights=edited_bundle(flags=ALWAYS_UNUSUAL), device="cpu")
    mask = out / "a_T2w_dseg.nii.gz"
    alone = [(flag["name"], flag["kind"]) for flag in record(out)["Flags"]]
    assert alone == [("unusual_contrast", "alarm")]
    report_masks(out)
    (scan,) = rows(out / "scans.csv")
    assert scan["alarms"] == "unusual_contrast" and (scan["lowest"], scan["topmost"]) == ("", "")
    assert int(scan["structures"]) == 10 and {row["name"] for row in rows(out / "structures.csv")} == {""}
    assert call(mask, "--shift", "1").exit_code == 0
    assert [flag["name"] for flag in record(out)["Flags"]] == ["unusual_contrast"]
    assert rows(out / "scans.csv")[0]["alarms"] == "unusual_contrast" and record(out)["Traits"]
    assert not named  # three pictures without names
    assert call(mask, "--accept").exit_code == 0
    assert {"L3", "L4/L5"} <= {row["name"] for row in rows(out / "structures.csv")}, "accepted by a person"
    assert rows(out / "scans.csv")[0]["alarms"] == "" and "unusual_contrast" not in str(record(out)["Flags"])
    assert len(named) == 1


def test_what_is_only_shifted_under_an_unusual_contrast_is_no_label(edited_bundle, make_scan, tmp_path):
    for seed, name in enumerate("ab"):
        make_scan(seed=seed).save(tmp_path / "in" / f"{name}_T2w.nii.gz")
    out, given = tmp_path / "out", [str(tmp_path / "out"), "--corrected", "--val", "0", "-o", str(tmp_path / "d.json")]
    segment_scans(tmp_path / "in", out, weights=edited_bundle(flags=ALWAYS_UNUSUAL), device="cpu", qc=False)
    assert call(out / "a_T2w_dseg.nii.gz", "--shift", "1").exit_code == 0
    alone = CliRunner().invoke(datalist, given)
    assert alone.exit_code == 1 and "while unusual_contrast stands on them (a_T2w_dseg.nii.gz)" in alone.output
    assert is_unreviewed_prediction(out / "a_T2w_dseg.nii.gz"), (
        "no truth for `cps4 evaluate` and plain datalists either"
    )
    assert call(out / "b_T2w_dseg.nii.gz", "--shift", "1", "--accept").exit_code == 0
    assert not is_unreviewed_prediction(out / "b_T2w_dseg.nii.gz")
    beside = CliRunner().invoke(datalist, given)
    assert beside.exit_code == 0 and "1 labeled, 1 unlabeled" in beside.output, beside.output
    assert "warning: 1 label maps were numbered anew" in beside.output and "(a_T2w_dseg.nii.gz)" in beside.output
    assert call(out / "a_T2w_dseg.nii.gz", "--accept").exit_code == 0
    accepted = CliRunner().invoke(datalist, given)
    assert "2 labeled, 0 unlabeled" in accepted.output and "unusual_contrast" not in accepted.output, accepted.output
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    lost = CliRunner().invoke(datalist, given)
    assert lost.exit_code == 1 and "scans lie now with --images" in lost.output, lost.output
    found = CliRunner().invoke(datalist, [*given, "--images", str(tmp_path / "elsewhere")])
    assert found.exit_code == 0 and "2 labeled, 0 unlabeled" in found.output, found.output


def test_a_calibration_of_outlines_is_asked_again_by_cps4_report(edited_bundle, make_scan, tmp_path):
    make_scan().save(tmp_path / "in" / "a_T2w.nii.gz")
    # log odds of confidence never reach 50: every whole disc is below the limit, and no vertebra, which has no chance
    rare = {"outline": {"disc": {"intercept": -50.0, "weights": {"outline_confidence": 1.0}}}, "outline_limit": 0.5}
    out = tmp_path / "out"
    segment_scans(tmp_path / "in", out, weights=edited_bundle(flags=rare), device="cpu")
    (low,) = [flag for flag in record(out)["Flags"] if flag["name"] == "low_confidence"]
    assert "L4/L5 (0 %)" in low["detail"] and "L4" not in low["structures"]
    outcomes, _ = report_masks(out)
    assert low in outcomes[0].record["Flags"]
    # After a shift the confidence is that of no structure, so that there is nothing to ask.
    assert call(out / "a_T2w_dseg.nii.gz", "--shift", "1").exit_code == 0
    assert "low_confidence" not in str(record(out)["Flags"])


def test_the_report_keeps_its_viewer(out):
    assert call(out / "a_T2w_dseg.nii.gz", "--shift", "1").exit_code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('class="viewer-scan"') == 2 and record(out)["Sha256"] in page


@pytest.fixture()
def killed(monkeypatch):
    """Function that calls another one and kills it after the sidecar, before the label map."""
    from cps4_monai.data import label_ownership

    written = label_ownership.write_atomically

    def dying(path, content, **how):
        if path.name.endswith("_dseg.nii.gz"):
            raise KeyboardInterrupt
        written(path, content, **how)

    def call_and_kill(function, *arguments, **settings):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(label_ownership, "write_atomically", dying)
            function(*arguments, **settings)

    return call_and_kill


def test_a_killed_correction_is_no_truth_and_no_result_until_it_is_made_again(out, killed, bundle_dir, tmp_path):
    mask, shift = out / "a_T2w_dseg.nii.gz", Correction(shift=1, accepted=True)
    before, margin = {n: (out / n).read_bytes() for n in (mask.name, "a_T2w_dseg.json")}, record(out)["Levels"]
    killed(apply, mask, shift)
    assert mask.read_bytes() == before[mask.name] and record(out)["Review"]["State"] == "accepted"
    assert reviewed_label(mask)[0] == "" and is_ours(mask)
    report_masks(out)
    (row, _) = rows(out / "scans.csv")
    assert (row["lowest"], row["review"]) == ("L5/S", "") and "was interrupted" in row["warnings"]
    again = segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu", overwrite=True)
    assert "found half of a correction" in again.failures[0].reason and "--undo" in again.failures[0].reason
    told = apply(mask, shift)
    assert len(told["Corrections"]) == 1 and told["Corrections"][0]["Before"]["Levels"] == margin
    assert told["Corrections"][0]["Before"]["EditedByHand"] is False and reviewed_label(mask)[0] == "accepted"
    assert call(mask, "--undo").exit_code == 0
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_correction_that_was_killed_anywhere_is_made_whole_by_the_same_corrections(out, monkeypatch):
    from cps4_monai.data import label_ownership, owned_picture
    from cps4_monai.inference import relabel as relabelling

    mask, modules, left = out / "a_T2w_dseg.nii.gz", (label_ownership, relabelling, owned_picture), [99]
    names, write = (mask.name, "a_T2w_dseg.json", "a_T2w_qc.png"), owned_picture.write_atomically
    said = Correction(shift=1, by="R", made="2025-01-01", label_sha256=record(out)["Sha256"])
    before = {name: (out / name).read_bytes() for name in names}

    def dying(path, content, **how):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(path, content, **how)

    for module in modules:
        monkeypatch.setattr(module, "write_atomically", dying)
    apply(mask, said)
    whole, writes = {name: (out / name).read_bytes() for name in names}, 99 - left[0]
    assert writes == 5 and all(whole[name] != before[name] for name in names)  # with those that --undo needs
    for done in range(writes):
        left[0] = 99
        restore_original(mask)
        assert all((out / name).read_bytes() == before[name] for name in names[:2])
        left[0] = done
        with pytest.raises(KeyboardInterrupt):
            apply(mask, said)
        left[0] = 99
        apply(mask, said)
        assert {name: (out / name).read_bytes() for name in names} == whole, done


@pytest.mark.parametrize("undo", [False, True])
def test_a_picture_that_cannot_follow_refuses_the_correction(out, tmp_path, undo):
    mask, scan = out / "a_T2w_dseg.nii.gz", tmp_path / "in" / "a_T2w.nii.gz"
    if undo:
        assert call(mask, "--shift", "1").exit_code == 0
    scan.write_bytes(b"no scan")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    result = call(mask, *(["--undo"] if undo else ["--shift", "1"]))
    assert result.exit_code == 1 and "a_T2w_qc.png: has to follow the label map" in result.output, result.output
    assert "a_T2w.nii.gz" in result.output and "take this picture away" in result.output
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    (out / "a_T2w_qc.png").unlink()
    assert call(mask, *(["--undo"] if undo else ["--shift", "1"])).exit_code == 0


def test_a_file_of_corrections_may_have_the_mark_that_editors_of_windows_write(tmp_path):
    path = tmp_path / "c.json"
    content = {"format": "cps4_monai.corrections", "version": 1, "scans": [{"scan": "a_T2w", "shift": 1}]}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert [correction.scan for correction in read_corrections(path)] == ["a_T2w"]


def test_without_its_scan_a_picture_stays_where_the_labels_do_and_is_drawn_on_black_where_not(out, tmp_path, caplog):
    """As on another machine, to which the results were copied."""
    mask, picture = out / "a_T2w_dseg.nii.gz", out / "a_T2w_qc.png"
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    before = picture.read_bytes()
    assert call(mask, "--accept").exit_code == 0
    assert picture.read_bytes() == before and "drawn on black" not in caplog.text
    assert call(mask, "--shift", "1").exit_code == 0
    assert picture.read_bytes() != before and "the scan of a_T2w_dseg.nii.gz is not there any more" in caplog.text


def test_settings_that_a_sidecar_leaves_open_are_the_defaults(out):
    mask, sidecar = out / "a_T2w_dseg.nii.gz", out / "a_T2w_dseg.json"
    told, unset = record(out), {"LevelThresholds": None, "FlagCalibration": None}
    sidecar.write_text(json.dumps({**told, "Settings": {**told["Settings"], **unset}}))
    apply(mask, Correction(shift=1))
    sidecar.write_text(json.dumps({**record(out), "Settings": None}))
    made = apply(mask, Correction(shift=-1))
    assert made["Sha256"] == told["Sha256"]
    states = {s["name"]: s["state"] for s in made["Structures"]}
    assert states == {s["name"]: s["state"] for s in told["Structures"]}


def test_a_second_correction_that_was_killed_is_taken_back(out, killed):
    mask = out / "a_T2w_dseg.nii.gz"
    before = mask.read_bytes()
    apply(mask, Correction(shift=1, accepted=True))
    killed(apply, mask, Correction(shift=1))
    result = call(mask, "--accept")
    assert result.exit_code == 1 and "a command was interrupted" in result.output and "--undo" in result.output
    assert call(mask, "--undo").exit_code == 0 and mask.read_bytes() == before and "Review" not in record(out)


def test_a_killed_overwrite_is_no_result_and_is_made_again(out, killed, bundle_dir, tmp_path):
    mask = out / "a_T2w_dseg.nii.gz"
    before, rough = mask.read_bytes(), Segmenter(bundle_dir, device="cpu", raw=True)(tmp_path / "in/a_T2w.nii.gz")
    rough.labels[1, 20, 5] = 3  # the coded bundle's argmax is as good as the decoded one
    killed(rough.save, out, overwrite=True)
    assert mask.read_bytes() == before and record(out)["Settings"]["Raw"] is True
    assert "the same 'cps4 segment' again" in call(mask, "--accept").output
    again = segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu", raw=True)
    assert [(o.name, o.status) for o in again.outcomes] == [("a_T2w", "done"), ("b_T2w", "kept")]
    assert record(out)["Sha256"] == hashlib.sha256(mask.read_bytes()).hexdigest() and is_described(mask)


def test_overwrite_spares_what_a_person_corrected_and_says_how_to_have_it_made_anew(out, bundle_dir, tmp_path):
    mask = out / "a_T2w_dseg.nii.gz"
    assert call(mask, "--shift", "1", "--accept", "--by", "Dr X").exit_code == 0
    kept = {name: (out / name).read_bytes() for name in (mask.name, "a_T2w_dseg.json", f".original-{mask.name}")}
    settings = {"weights": bundle_dir, "device": "cpu", "overwrite": True}
    told = segment_scans(tmp_path / "in", out, raw=True, **settings).outcomes
    assert [(one.name, one.status) for one in told] == [("a_T2w", "kept"), ("b_T2w", "done")]
    assert told[0].reason.startswith("kept, though made with other weights or settings: accepted by Dr X; ")
    assert "delete the label map" in rows(out / "scans.csv")[0]["warnings"]
    assert {name: (out / name).read_bytes() for name in kept} == kept
    result = Segmenter(bundle_dir, device="cpu", raw=True)(tmp_path / "in/a_T2w.nii.gz")
    with pytest.raises(ForeignFileError, match=r"was accepted by Dr X; .*delete the label map"):
        result.save(out, overwrite=True)
    assert segment_scans(tmp_path / "in/b_T2w.nii.gz", out, **settings).outcomes[0].status == "done"
    (tmp_path / "in/b_T2w.nii.gz").replace(tmp_path / "in/a_T2w.nii.gz")  # another scan of that name
    (failed,) = segment_scans(tmp_path / "in", out, **settings).failures
    assert "another scan" in failed.reason and "delete it (accepted by Dr X)" in failed.reason
    assert mask.read_bytes() == kept[mask.name]


def test_undo_loses_no_edits_by_hand(out):
    mask = out / "a_T2w_dseg.nii.gz"
    before = mask.read_bytes()

    def edit():
        there = nib.load(mask)
        array = np.asarray(there.dataobj).copy()
        array[array == 3] = 0
        nib.save(nib.Nifti1Image(array, there.affine, there.header), mask)
        return mask.read_bytes()

    assert call(mask, "--shift", "1").exit_code == 0
    edited = edit()
    for _ in ("not told of", "accepted"):
        result = call(mask, "--undo")
        assert result.exit_code == 1 and "was edited by hand, which --undo would lose" in result.output
        assert mask.read_bytes() == edited
        assert call(mask, "--accept").exit_code == 0
    mask.rename(out.parent / "mine.nii.gz")
    assert call(mask, "--undo").exit_code == 0 and mask.read_bytes() == before
    edit()  # before the first correction: in the original
    edited = mask.read_bytes()
    assert call(mask, "--shift", "1").exit_code == 0
    assert call(mask, "--undo").exit_code == 0 and mask.read_bytes() == edited


def test_a_comment_of_the_command_goes_to_corrections_of_a_file_that_have_none(out, tmp_path):
    entries = [{"scan": "a_T2w", "accepted": True}, {"scan": "b_T2w", "accepted": True, "comment": "from the page"}]
    file = tmp_path / "corrections.json"
    file.write_text(json.dumps({"format": "cps4_monai.corrections", "version": 1, "scans": entries}))
    assert call(out, "--corrections", file, "--comment", "second reading").exit_code == 0
    told = [record(out, name)["Corrections"][-1]["Said"]["Comment"] for name in ("a_T2w", "b_T2w")]
    assert told == ["second reading", "from the page"]
    mask = out / "a_T2w_dseg.nii.gz"
    result = call(mask, "--undo", "--comment", "why")
    assert result.exit_code == 2 and "keeps no comment" in result.output


def test_originals_of_an_earlier_label_map_are_never_brought_back(out, bundle_dir, tmp_path):
    mask = out / "a_T2w_dseg.nii.gz"
    hidden = [out / f".original-{name}" for name in (mask.name, "a_T2w_dseg.json")]
    assert call(mask, "--shift", "1").exit_code == 0
    stale = {path: path.read_bytes() for path in hidden}
    mask.unlink()
    segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu", raw=True)
    assert record(out)["Settings"]["Raw"] and not any(path.exists() for path in hidden)
    assert call(mask, "--shift", "1").exit_code == 0 and call(mask, "--undo").exit_code == 0
    for path, content in stale.items():  # as version 0.3 left them
        path.write_bytes(content)
    before = (out / "a_T2w_dseg.json").read_bytes()
    assert call(mask, "--accept").exit_code == 0 and call(mask, "--undo").exit_code == 0
    assert (out / "a_T2w_dseg.json").read_bytes() == before
    edited = nib.load(mask)
    nib.save(nib.Nifti1Image(np.asarray(edited.dataobj), edited.affine), hidden[0])
    hidden[1].write_bytes(stale[hidden[1]])
    result = call(mask, "--undo")
    assert result.exit_code == 1 and "was not corrected to this label map" in result.output
    assert (out / "a_T2w_dseg.json").read_bytes() == before


def test_a_damaged_neighbour_has_failed_and_the_corrected_scan_is_in_the_tables(out):
    damaged = out / "b_T2w_dseg.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    result = call(out / "a_T2w_dseg.nii.gz", "--shift", "1")
    assert result.exit_code == 0, result.output
    scans = {row["scan"]: row for row in rows(out / "scans.csv")}
    assert scans["a_T2w"]["review"] == "corrected" and scans["b_T2w"]["status"] == "failed"
    assert "b_T2w_dseg.nii.gz" in {row["scan"]: row["reason"] for row in rows(out / "failures.csv")}["b_T2w"]


def drawn(mask, change):
    """A label map as a person saves it from a viewer."""
    image = nib.load(mask)
    array = np.asarray(image.dataobj).copy()
    change(array)
    nib.save(nib.Nifti1Image(array, image.affine, image.header), mask)


def test_what_a_person_leaves_open_is_no_structure_and_stays_open(out, bundle_dir, tmp_path):
    """255 where nobody says what it is: the way to correct a label map in part."""

    def open_corner(array):
        array[0] = NOT_ANNOTATED

    mask = out / "a_T2w_dseg.nii.gz"
    drawn(mask, open_corner)
    outcomes, page = report_masks(out)
    assert {one.name: one.status for one in outcomes} == {"a_T2w": "mask", "b_T2w": "mask"}
    assert len(shown(page)) == 2
    assert call(mask, "--accept").exit_code == 0
    assert record(out)["Review"]["State"] == "accepted"
    pytest.importorskip("nrrd")
    again = segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu", seg_nrrd=True)
    assert not again.lacking and not again.failures and (out / "a_T2w.seg.nrrd").exists()
    restore_original(mask)  # what it was edited to, with its copy
    assert (codes(mask)[0] == NOT_ANNOTATED).all()
    assert call(mask, "--shift", "1").exit_code == 0
    assert (codes(mask)[0] == NOT_ANNOTATED).all() and set(np.unique(codes(mask)[1:])) <= set(range(20))
    assert len(rows(out / "scans.csv")) == 2


def accepted_with(out, code, names):
    """Both label maps accepted, ``code`` drawn in those named, of weights that never had it."""
    for name in "ab":
        mask, told = out / f"{name}_T2w_dseg.nii.gz", record(out, f"{name}_T2w")
        for one in told["Structures"]:
            if one["code"] == code:
                one.update(state="not_trained", volume_ml=0.0)
        (out / f"{name}_T2w_dseg.json").write_text(json.dumps(told))
        if name in names:
            drawn(mask, lambda array: array.__setitem__((slice(None), slice(0, 9), slice(0, 9)), code))
        assert call(mask, "--accept").exit_code == 0
    listed = CliRunner().invoke(datalist, [str(out), "--corrected", "-o", str(out / "d.json"), "--val", "0"])
    assert listed.exit_code == 0, listed.output
    return json.loads((out / "d.json").read_text())["unannotated"], listed.output


def test_a_structure_that_the_weights_never_had_counts_once_a_person_drew_it(out):
    unannotated, said = accepted_with(out, 10, "ab")
    assert unannotated == [1] and "drawn in some" not in said
    state = {one["code"]: one["state"] for one in record(out)["Structures"]}[10]
    assert state in ("present", "cut")


def test_a_structure_that_is_drawn_in_some_label_maps_alone_is_named(out):
    unannotated, said = accepted_with(out, 10, "a")
    assert unannotated == [1] and "T9 (code 10, in 1 of 2)" in said and "--unannotated" in said


def test_a_structure_that_nobody_drew_stays_unannotated(out):
    assert accepted_with(out, 10, "")[0] == [1, 10]


def test_a_label_map_that_was_changed_after_it_was_accepted_is_named(out):
    for name in "ab":
        assert call(out / f"{name}_T2w_dseg.nii.gz", "--accept").exit_code == 0
    edit(out / "a_T2w_dseg.nii.gz")
    listed = CliRunner().invoke(datalist, [str(out), "--corrected", "-o", str(out / "d.json"), "--val", "0"])
    assert listed.exit_code == 0, listed.output
    assert "1 label maps were changed in a viewer, and nobody accepted them since (a_T2w_dseg.nii.gz)" in listed.output
    training = json.loads((out / "d.json").read_text())["training"]
    assert {entry["subject"]: "label" in entry for entry in training} == {"a": False, "b": True}


def test_of_two_results_of_a_scan_the_one_counts_that_a_person_stands_for(out, bundle_dir, tmp_path):
    segment_scans(tmp_path / "in", tmp_path / "out" / "again", weights=bundle_dir, device="cpu")
    assert call(out / "a_T2w_dseg.nii.gz", "--accept").exit_code == 0
    assert call(out / "again" / "b_T2w_dseg.nii.gz", "--accept").exit_code == 0
    given = [str(out), "--corrected", "-o", str(tmp_path / "d.json"), "--val", "0"]
    listed = CliRunner().invoke(datalist, given)
    assert listed.exit_code == 0 and "2 results left out" in listed.output, listed.output
    training = json.loads((tmp_path / "d.json").read_text())["training"]
    assert [entry["label"] for entry in training] == ["out/a_T2w_dseg.nii.gz", "out/again/b_T2w_dseg.nii.gz"]
    assert call(out / "b_T2w_dseg.nii.gz", "--accept").exit_code == 0
    refused = CliRunner().invoke(datalist, given)
    assert refused.exit_code == 1 and "2 label maps of this scan are corrected or accepted" in refused.output


def exchange(tmp_path, make_scan, name="a"):
    """Puts another scan of the same grid in the place of one that was segmented, as a second visit's would be."""
    make_scan(seed=7).save(tmp_path / "in" / f"{name}_T2w.nii.gz")


def test_a_label_map_is_no_label_of_a_scan_that_was_exchanged_since(out, make_scan, tmp_path):
    for name in "ab":
        assert call(out / f"{name}_T2w_dseg.nii.gz", "--accept").exit_code == 0
    exchange(tmp_path, make_scan)
    given = [str(out), "--corrected", "-o", str(tmp_path / "d.json"), "--val", "0"]
    listed = CliRunner().invoke(datalist, given)
    assert listed.exit_code == 0, listed.output
    assert "1 label maps were made of another scan than lies there now (a_T2w_dseg.nii.gz)" in listed.output
    training = json.loads((tmp_path / "d.json").read_text())["training"]
    assert {entry["subject"]: "label" in entry for entry in training} == {"a": False, "b": True}
    exchange(tmp_path, make_scan, "b")
    refused = CliRunner().invoke(datalist, [*given[:-4], "-o", str(tmp_path / "e.json"), "--val", "0"])
    assert refused.exit_code == 1 and "another scan" in refused.output and "--accept" in refused.output


def test_what_was_said_of_a_scan_is_not_said_of_another_in_its_place(out, make_scan, tmp_path, caplog):
    mask = out / "a_T2w_dseg.nii.gz"
    digest = file_sha256(mask)
    exchange(tmp_path, make_scan)
    before = (out / "a_T2w_dseg.json").read_bytes()
    with pytest.raises(ValueError, match="another scan"):
        apply(mask, Correction("a_T2w", accepted=True, label_sha256=digest))
    assert (out / "a_T2w_dseg.json").read_bytes() == before
    outcomes, _ = report_masks(out)
    (told,) = [outcome.warnings for outcome in outcomes if outcome.name == "a_T2w"]
    assert "its scan is another one than it was made of" in told
    # whoever names the label map now has seen the scan that lies there: it is of this one from now on
    assert call(mask, "--accept").exit_code == 0 and "counts as a label map of this one" in caplog.text
    assert record(out)["SourceSha256"] == file_sha256(tmp_path / "in" / "a_T2w.nii.gz")
    outcomes, _ = report_masks(out)
    assert not any("another one" in warning for outcome in outcomes for warning in outcome.warnings)


def test_a_scan_that_was_moved_and_written_anew_is_accepted_where_it_lies_now(out, make_scan, tmp_path):
    mask = out / "a_T2w_dseg.nii.gz"
    for name in "ab":
        assert call(out / f"{name}_T2w_dseg.nii.gz", "--accept").exit_code == 0
    moved = tmp_path / "moved"
    (tmp_path / "in").rename(moved)
    make_scan(seed=0).save(moved / "a_T2w.nii")
    (moved / "a_T2w.nii.gz").unlink()
    given = [str(out), "--corrected", "--images", str(moved), "-o", str(tmp_path / "d.json"), "--val", "0"]
    listed = CliRunner().invoke(datalist, given)
    assert listed.exit_code == 0 and "--accept' (with --images" in listed.output, listed.output
    before = record(out)
    assert call(mask, "--wrong", "L4", "--images", moved).exit_code == 0
    assert all(record(out)[key] == before[key] for key in ("Sources", "SourceSha256")), "only --accept takes it over"
    assert call(mask, "--accept", "--images", moved).exit_code == 0
    assert record(out)["Sources"] == [str(moved / "a_T2w.nii")]
    listed = CliRunner().invoke(datalist, [*given[:-4], "-o", str(tmp_path / "e.json"), "--val", "0"])
    assert listed.exit_code == 0 and "another scan" not in listed.output, listed.output
    assert all("label" in entry for entry in json.loads((tmp_path / "e.json").read_text())["training"])


def test_results_of_plain_monai_without_geometry_are_corrected_with_their_tables(make_scan, tmp_path):
    """Their JSON has settings and weights, of which `cps4 segment` writes more."""
    scan, folder = make_scan(), tmp_path / "out"
    scan.save(tmp_path / "a.nii.gz")
    told = {"Settings": {"AssumeSpacing": [4.0, 2.0, 2.0]}, "Weights": {"Sha256": "0" * 64}}
    content = label_bytes("a_dseg.nii.gz", scan.label, nib.load(tmp_path / "a.nii.gz").header)
    write_owned_label(folder / "a_dseg.nii.gz", content, {"Sources": [str(tmp_path / "a.nii.gz")], **told})
    report_masks(folder)
    result = call(folder / "a_dseg.nii.gz", "--accept")
    assert result.exit_code == 0 and rows(folder / "scans.csv")[0]["review"] == "accepted", result.output
