from __future__ import annotations

import csv
import json
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai import segment_scans
from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.commands.relabel import relabel
from cps4_monai.commands.report import report
from cps4_monai.inference.masks import report_masks
from cps4_monai.report.pictures import sagittal_mosaic
from cps4_monai.report.predictions import report_predictions


def _rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture()
def segmented(bundle_dir, make_scan, tmp_path):
    for name in ("a", "sub/b"):
        make_scan().save(tmp_path / "in" / f"{name}_T2w.nii.gz")
    segment_scans(tmp_path / "in", tmp_path / "out", weights=bundle_dir, device="cpu")
    return tmp_path / "out"


def test_tables_made_again_are_those_of_the_run(segmented):
    before = {name: _rows(segmented / name) for name in ("structures.csv", "scans.csv")}
    pictures = {p.name: p.read_bytes() for p in segmented.rglob("*_qc.png")}
    outcomes, page = report_masks(segmented)
    assert [o.status for o in outcomes] == ["mask", "mask"] and page == segmented / "report.html"
    assert _rows(segmented / "structures.csv") == before["structures.csv"]
    for row, was in zip(_rows(segmented / "scans.csv"), before["scans.csv"], strict=True):
        assert {k: row[k] for k in ("scan", "alarms", "notes", "lowest", "topmost", "margin", "seconds")} == {
            k: was[k] for k in ("scan", "alarms", "notes", "lowest", "topmost", "margin", "seconds")
        }
    assert {p.name for p in segmented.rglob("*_qc.png")} == set(pictures)


def test_results_of_another_anatomy_are_not_renamed(segmented, tmp_path):
    other = Anatomy((Structure(0, "background", "background", "background"), Structure(1, "bone", "bone", "other")))
    before = {path: path.read_bytes() for path in segmented.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"a_T2w_dseg\.nii\.gz: its JSON names structures that the anatomy does not"):
        report_masks(segmented, anatomy=other)
    with pytest.raises(ValueError, match="Fix: give the anatomy of its weights with --anatomy"):
        report_predictions(segmented, tmp_path / "in", tmp_path / "scored", anatomy=other)
    assert {path: path.read_bytes() for path in segmented.rglob("*") if path.is_file()} == before


def test_what_the_weights_calibration_says_of_a_result_stays_said(edited_bundle, make_scan, tmp_path, monkeypatch):
    always = {"failure": {"intercept": 3.0, "weights": {"kept": 0.5}}, "failure_limit": 0.6}
    make_scan().save(tmp_path / "in/a_T2w.nii.gz")
    segment = partial(
        segment_scans, tmp_path / "in", tmp_path / "out", weights=edited_bundle(flags=always), device="cpu"
    )
    segment(qc=False)
    before, pictures = _rows(tmp_path / "out/scans.csv"), []
    assert before[0]["alarms"] == "unusual_contrast"
    one_pixel = sagittal_mosaic(np.zeros((2, 2, 2), np.uint8), None, np.eye(4))
    drawn = lambda *_, **settings: pictures.append(settings["alarms"]) or one_pixel  # noqa: E731
    monkeypatch.setattr("cps4_monai.report.pictures.sagittal_mosaic", drawn)
    monkeypatch.setattr("cps4_monai.inference.masks.sagittal_mosaic", drawn)
    segment()  # kept, and its picture drawn
    report_masks(tmp_path / "out")
    after = _rows(tmp_path / "out/scans.csv")
    assert (after[0]["alarms"], after[0]["notes"]) == (before[0]["alarms"], before[0]["notes"])
    assert [list(alarms) for alarms in pictures] == [["unusual_contrast"]] * 2, "without names, then"


def test_alarms_that_need_the_margin_stay_as_long_as_the_label_map_is_not_edited(bundle_dir, make_scan, tmp_path):
    scan = make_scan()
    scan.image = scan.image[:, :, 20:]  # begins within L5, with nothing below it to count from
    scan.save(tmp_path / "in/low_T2w.nii.gz")
    segment_scans(tmp_path / "in", tmp_path / "out", weights=bundle_dir, device="cpu", qc=False)
    before = _rows(tmp_path / "out/scans.csv")[0]
    assert before["alarms"] == "unanchored"
    (outcome,), _ = report_masks(tmp_path / "out", qc=False)
    after = _rows(tmp_path / "out/scans.csv")[0]
    assert (after["alarms"], after["notes"]) == (before["alarms"], before["notes"])
    told = json.loads((tmp_path / "out/low_T2w_dseg.json").read_text())["Flags"]
    assert outcome.record["Flags"] == told, "in the order of FLAGS, as they were"


def test_low_confidence_is_that_of_the_weights_calibration(edited_bundle, make_scan, tmp_path):
    outline = {kind: {"intercept": -9.0, "weights": {"confidence": 0.0}} for kind in ("vertebra", "disc")}
    make_scan().save(tmp_path / "in/a_T2w.nii.gz")
    segment_scans(
        tmp_path / "in", tmp_path / "out", weights=edited_bundle(flags={"outline": outline}), device="cpu", qc=False
    )
    before = _rows(tmp_path / "out/scans.csv")
    assert "low_confidence" in before[0]["notes"]
    report_masks(tmp_path / "out", qc=False)
    assert _rows(tmp_path / "out/scans.csv")[0]["notes"] == before[0]["notes"]


def test_edited_label_maps_get_new_statistics_and_no_old_confidence(segmented):
    path = segmented / "a_T2w_dseg.nii.gz"
    image = nib.load(path)
    codes = np.asarray(image.dataobj).copy()
    codes[codes == 4] = 0  # L3 taken out
    nib.save(nib.Nifti1Image(codes, image.affine, image.header), path)
    edited, sidecar = path.read_bytes(), (segmented / "a_T2w_dseg.json").read_bytes()
    result = CliRunner().invoke(report, [str(segmented), "--unannotated", "S"])
    assert result.exit_code == 0, result.output
    rows = [row for row in _rows(segmented / "structures.csv") if row["scan"] == "a_T2w"]
    assert {row["name"]: row["state"] for row in rows}["L3"] == "absent" and not any(r["confidence"] for r in rows)
    scans = {row["scan"]: row for row in _rows(segmented / "scans.csv")}
    assert "gap" in scans["a_T2w"]["alarms"] and "changed since" in scans["a_T2w"]["warnings"]
    assert path.read_bytes() == edited and (segmented / "a_T2w_dseg.json").read_bytes() == sidecar


def test_masks_from_elsewhere_with_and_without_their_scans(make_scan, tmp_path):
    scan = make_scan()
    (tmp_path / "masks").mkdir()
    for name in ("x", "y"):
        nib.save(nib.Nifti1Image(scan.label, scan.affine), tmp_path / f"masks/{name}_mask.nii.gz")
    nib.save(nib.Nifti1Image(scan.label + 30, scan.affine), tmp_path / "masks/z_mask.nii.gz")
    scan.save(tmp_path / "images/x_T2w.nii.gz")
    arguments = [str(tmp_path / "masks"), "-o", str(tmp_path / "out"), "--images", str(tmp_path / "images")]
    result = CliRunner().invoke(report, arguments)
    assert result.exit_code == 1 and "outside the table" in result.output and "2 label maps" in result.output
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["x_qc.png", "y_qc.png"]
    assert [row["scan"] for row in _rows(tmp_path / "out/failures.csv")] == ["z"]
    with pytest.raises(ValueError, match="no label map"):
        report_masks(_empty(tmp_path))


def test_what_failed_stays_told_when_the_page_is_made_again(bundle_dir, make_scan, tmp_path):
    make_scan().save(tmp_path / "in" / "a_T2w.nii.gz")
    (tmp_path / "in" / "bad_T2w.nii.gz").write_bytes(b"no scan")
    out = tmp_path / "out"
    segment_scans(tmp_path / "in", out, weights=bundle_dir, device="cpu")
    failures = _rows(out / "failures.csv")
    assert [row["scan"] for row in failures] == ["bad_T2w"]
    outcomes, _ = report_masks(out)
    assert [o.name for o in outcomes] == ["a_T2w"], "label maps alone are counted"
    assert _rows(out / "failures.csv") == failures and "bad_T2w" in (out / "report.html").read_text(encoding="utf-8")


def test_another_folder_is_not_told_what_failed_before_in_the_same_place(segmented, tmp_path, monkeypatch):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x_dseg.nii.gz").write_bytes(b"no label map")
    outcomes, _ = report_masks(tmp_path / "bad", tmp_path / "page")
    assert [o.status for o in outcomes] == ["failed"] and len(_rows(tmp_path / "page" / "failures.csv")) == 1
    report_masks(segmented, tmp_path / "page")
    assert _rows(tmp_path / "page" / "failures.csv") == []
    monkeypatch.chdir(tmp_path)
    make_again = segmented / "y_dseg.nii.gz"
    make_again.write_bytes(b"no label map")
    report_masks("out")
    make_again.unlink()
    outcomes, _ = report_masks(segmented)
    assert [o.status for o in outcomes] == ["mask", "mask"] and _rows(segmented / "failures.csv") == []


def test_one_label_map_of_many_does_not_take_the_tables_of_all(segmented, tmp_path):
    before = (segmented / "scans.csv").read_bytes()
    with pytest.raises(ValueError, match=r"are of 1 other label maps, too.*-o"):
        report_masks(segmented / "a_T2w_dseg.nii.gz")
    assert (segmented / "scans.csv").read_bytes() == before
    assert report_masks(segmented / "a_T2w_dseg.nii.gz", tmp_path / "one")[1] == tmp_path / "one" / "report.html"


def _empty(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.json").write_text(json.dumps({}))
    return tmp_path / "empty"


def test_report_without_label_maps_or_output_is_a_usage_error(tmp_path):
    assert CliRunner().invoke(report, []).exit_code == 2
    assert CliRunner().invoke(report, [str(tmp_path), "-l", str(tmp_path)]).exit_code == 2


def test_a_header_without_geometry_is_read_as_it_was_segmented(bundle_dir, make_scan, tmp_path):
    pytest.importorskip("nrrd", reason="pynrrd of the extra `slicer` is not installed")
    scan = make_scan()
    image = nib.Nifti1Image(np.ascontiguousarray(scan.image[::-1, ::-1]), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in/s.nii.gz")
    settings = {"weights": bundle_dir, "device": "cpu", "qc": False, "assume_spacing": [4, 2, 2]}
    segment_scans(tmp_path / "in", tmp_path / "out", **settings)
    before = _rows(tmp_path / "out/structures.csv")
    (again,) = segment_scans(tmp_path / "in", tmp_path / "out", **settings, seg_nrrd=True).outcomes
    assert again.status == "kept" and (tmp_path / "out/s.seg.nrrd").exists()
    (outcome,), _ = report_masks(tmp_path / "out")
    assert outcome.status == "mask" and outcome.picture.exists() and any("assumed" in w for w in outcome.warnings)
    assert _rows(tmp_path / "out/structures.csv") == before and before[1]["volume_ml"]


@pytest.mark.parametrize(
    "told",
    [
        {"Sources": {"a": 1}},
        {"Sources": [{"URL": "x"}]},
        {"Sources": "x"},
        {"Sources": ["a\0b"]},
        {"Settings": [1], "Warnings": "abc", "Weights": 3, "Series": [2]},
        {"GeneratedBy": [{"Name": "TotalSpineSeg"}], "Sources": ["bids::sub-1/anat/x.nii.gz"], "Warnings": "abc"},
        [1],
    ],
)
def test_a_json_of_another_tool_is_not_believed(make_scan, tmp_path, told):
    scan = make_scan()
    scan.save(tmp_path / "x.nii.gz")
    nib.save(nib.Nifti1Image(scan.label, scan.affine), tmp_path / "x_dseg.nii.gz")
    (tmp_path / "x_dseg.json").write_text(json.dumps(told))
    (outcome,), _ = report_masks(tmp_path)
    assert (outcome.status, outcome.warnings, outcome.source.name) == ("mask", [], "x.nii.gz")


def test_two_label_maps_of_one_scan_get_a_picture_each_and_a_lost_scan_is_told(make_scan, tmp_path):
    scan = make_scan()
    for name in ("x_dseg", "x_mask"):
        nib.save(nib.Nifti1Image(scan.label, scan.affine), tmp_path / f"{name}.nii.gz")
    outcomes, _ = report_masks(tmp_path)
    assert [o.name for o in outcomes] == ["x_dseg", "x_mask"] and len({o.picture for o in outcomes}) == 2
    assert all("scan was not found" in o.warnings[0] for o in outcomes)


def test_an_error_that_nobody_foresaw_is_recorded_for_its_label_map_alone(segmented, monkeypatch):
    from cps4_monai.inference import masks

    def broken(label, source, series, anatomy, title, alarms):
        if title.startswith("a"):
            raise IndexError("out of range")
        return drawn(label, source, series, anatomy, title, alarms)

    drawn = masks._draw
    monkeypatch.setattr(masks, "_draw", broken)
    outcomes, page = report_masks(segmented)
    assert [o.status for o in outcomes] == ["failed", "mask"] and outcomes[0].reason == "IndexError: out of range"
    assert page.exists()


def test_what_the_networks_view_cuts_stays_cut(edited_bundle, make_scan, tmp_path):
    """The central half of 28 columns ends at 21, the spine spans 12 to 27: each structure is cut in front or behind."""
    make_scan(width=28).save(tmp_path / "in/a_T2w.nii.gz")
    weights = edited_bundle(in_plane_mode="central_half", spacing_mm=None, slice_size=[96, 14])
    out = tmp_path / "out"
    segment_scans(tmp_path / "in", out, weights=weights, device="cpu", qc=False)
    mask, sidecar = out / "a_T2w_dseg.nii.gz", out / "a_T2w_dseg.json"
    told = json.loads(sidecar.read_text())
    before = _rows(out / "structures.csv")
    states = {row["name"]: row["state"] for row in before}
    assert states["L5"] == states["L4"] == "cut" and told["View"] == [0, 96, 7, 21]
    report_masks(out, qc=False)
    assert _rows(out / "structures.csv") == before
    assert CliRunner().invoke(relabel, [str(mask), "--shift", "1"]).exit_code == 0
    shifted = json.loads(sidecar.read_text())
    assert {s["name"]: s["state"] for s in shifted["Structures"]}["L4"] == "cut" and shifted["View"] == told["View"]
    sidecar.write_text(json.dumps({**shifted, "View": [0, 96]}))
    (outcome,), _ = report_masks(out, qc=False)
    assert outcome.status == "failed" and "View is [0, 96]; expected four whole numbers, or null" in outcome.reason


def test_an_edit_leaves_what_is_known_of_how_the_label_map_was_made(segmented):
    """The part of the scan that the network saw, and what its labels never showed, are not of single voxels."""
    mask = segmented / "a_T2w_dseg.nii.gz"
    told = json.loads((segmented / "a_T2w_dseg.json").read_text())
    absent = next(one for one in told["Structures"] if one["state"] == "absent")
    absent["state"] = "not_trained"
    (segmented / "a_T2w_dseg.json").write_text(json.dumps(told))
    image = nib.load(mask)
    edited = np.asarray(image.dataobj).copy()
    edited[tuple(np.argwhere(edited > 0)[0])] = 0
    nib.save(nib.Nifti1Image(edited, image.affine, image.header), mask)
    outcomes, _ = report_masks(segmented)
    seen = next(one for one in outcomes if one.name == "a_T2w").record
    assert {one["code"]: one["state"] for one in seen["Structures"]}[absent["code"]] == "not_trained"
    assert "changed since it was segmented" in seen["Warnings"] and seen["Levels"] is None
    assert all(one["confidence"] is None for one in seen["Structures"])
