from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cps4_monai import segment, segment_scans
from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data import label_ownership
from cps4_monai.data.label_ownership import ForeignFileError, is_ours
from cps4_monai.data.run_files import LOCK
from cps4_monai.inference import scan_work
from cps4_monai.inference.run_tables import TABLES
from cps4_monai.transforms.label_saving import SaveLabelsd

RUN_FILES = {"report.html", "cps4_files.json", LOCK, *TABLES}


@pytest.fixture()
def run(bundle_dir):
    """Function that segments with the coded bundle."""

    def call(inputs, output, **settings):
        return segment_scans(inputs, output, **{"weights": bundle_dir, "device": "cpu", "qc": False, **settings})

    return call


def _rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _stamps(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*_T2w_*") if p.is_file()}


def test_a_full_disk_ends_the_run_and_what_is_done_is_kept(run, make_scan, tmp_path, monkeypatch):
    """It is no scan's fault, and the others would be computed for nothing."""
    for name in "abc":
        make_scan().save(tmp_path / "in" / f"{name}_T2w.nii.gz")
    write, begun = scan_work.write_segmentation, []

    def write_until_full(result, files, **options):
        begun.append(files.label.name)
        if len(begun) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(result, files, **options)

    monkeypatch.setattr(scan_work, "write_segmentation", write_until_full)
    with pytest.raises(ValueError, match=r"the disk is full.*start the same command again"):
        run([tmp_path / "in"], tmp_path / "out", jobs=1)
    assert len(begun) == 2
    monkeypatch.undo()
    result = run([tmp_path / "in"], tmp_path / "out")
    assert [outcome.status for outcome in result.outcomes] == ["kept", "done", "done"]


def test_one_bad_scan_is_recorded_and_the_rest_goes_on(run, make_scan, tmp_path):
    data = tmp_path / "in"
    for name in ("a", "c"):
        make_scan().save(data / f"{name}_T2w.nii.gz")
    (data / "b_T2w.nii.gz").write_bytes(b"\x1f\x8bbroken")
    result = run([data], tmp_path / "out")
    assert [(o.name, o.status) for o in result.outcomes] == [("a_T2w", "done"), ("b_T2w", "failed"), ("c_T2w", "done")]
    failures = _rows(tmp_path / "out/failures.csv")
    assert len(failures) == 1 and "damaged gzip" in failures[0]["reason"] and failures[0]["scan"] == "b_T2w"
    assert not (tmp_path / "out/b_T2w_dseg.nii.gz").exists()
    scans = _rows(tmp_path / "out/scans.csv")
    assert [row["status"] for row in scans] == ["done", "failed", "done"]
    assert (
        scans[0]["lowest"] == "L5/S"
        and scans[0]["notes"] == "cut_structure"
        and not scans[0]["alarms"]
        and float(scans[0]["margin"]) > 1
    )
    structures = _rows(tmp_path / "out/structures.csv")
    assert len(structures) == 2 * 19 and {row["state"] for row in structures} == {
        "present",
        "cut",
        "absent",
        "not_trained",
    }
    assert {p.name for p in (tmp_path / "out").iterdir() if "T2w" not in p.name} == RUN_FILES


def test_the_report_shows_what_needs_a_look_first(run, make_scan, tmp_path):
    data = tmp_path / "in"
    for name in ("a", "b"):
        make_scan().save(data / f"{name}.nii.gz")
    gap = make_scan()
    gap.image[gap.label == MRSPINESEG.code_of("L3/L4")] = 0
    gap.save(data / "z_gap.nii.gz")
    (data / "zz_bad.nii.gz").write_bytes(b"")
    result = run([data], tmp_path / "out", qc=True)
    page = result.report.read_text(encoding="utf-8")
    places = [page.index(f'data-sort="{name}"') for name in ("zz_bad", "z_gap", "a", "b")]
    assert places == sorted(places) and page.count("data:image/webp") == 3
    assert not re.search(r"""(?:src|href|action)=["']?https?:""", page)  # NiiVue's comments name addresses
    assert [o.name for o in result.failures] == ["zz_bad"]
    assert [o.name for o in result.segmented if o.needs_a_look] == ["z_gap"]  # all are cut by the view: a note


def test_tables_and_page_name_nothing_of_the_machine_that_made_them(run, make_scan, tmp_path, bundle_dir):
    data = tmp_path / "in"
    make_scan().save(data / "a.nii.gz")
    (data / "b_dseg.nii.gz").write_bytes((data / "a.nii.gz").read_bytes())
    (data / "bad.nii.gz").write_bytes(b"")
    result = run([data], tmp_path / "out")
    page = result.report.read_text(encoding="utf-8")
    assert str(tmp_path) not in page and "b_dseg.nii.gz" in page and "found an empty file" in page
    assert str(bundle_dir) not in page and f"{bundle_dir.name}, version" in page
    record = json.loads((tmp_path / "out/a_dseg.json").read_text())
    assert record["Weights"]["Sha256"] in page and "{&#39;" not in page  # words, no raw dictionaries
    assert _rows(tmp_path / "out/scans.csv")[0]["label"] == "a_dseg.nii.gz"


def test_the_same_call_again_does_only_what_is_missing(run, make_scan, tmp_path):
    data, out = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        make_scan(seed=ord(name)).save(data / f"{name}_T2w.nii.gz")
    run([data], out, qc=True)
    for lost in ("b_T2w_dseg.nii.gz", "c_T2w_qc.png"):
        (out / lost).unlink()
    before = _stamps(out)
    result = run([data], out, qc=True)
    assert [o.status for o in result.outcomes] == ["kept", "done", "kept"]
    after = _stamps(out)
    assert {p.name for p in after if after[p] != before.get(p)} == {
        "b_T2w_dseg.nii.gz",
        "b_T2w_dseg.json",
        "b_T2w_qc.png",
        "c_T2w_qc.png",
    }
    assert len(_rows(out / "structures.csv")) == 3 * 19  # kept scans are in the tables
    assert not [o.reason for o in result.outcomes if o.reason]


def test_a_run_that_is_killed_leaves_whole_files_and_can_go_on(run, make_scan, tmp_path):
    data, out = tmp_path / "in", tmp_path / "out"
    for name in "abcd":
        make_scan(slices=3).save(data / f"{name}_T2w.nii.gz")

    def kill(outcome, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([data], out, on_scan=kill)
    there = sorted(out.glob("*_dseg.nii.gz"))
    assert 2 <= len(there) <= 4 and all(is_ours(p) for p in there) and not list(out.glob(".partial-*"))
    result = run([data], out)
    assert [o.status for o in result.outcomes][:2] == ["kept", "kept"] and len(result.segmented) == 4


def test_a_kill_between_the_files_of_a_scan_is_mended(run, make_scan, tmp_path, monkeypatch):
    data, out = tmp_path / "in", tmp_path / "out"
    make_scan().save(data / "a_T2w.nii.gz")
    with no_label_map_written(monkeypatch):
        result = run([data], out, qc=True)
    assert "no space left" in result.failures[0].reason and (out / "a_T2w_qc.png").exists()
    assert run([data], out, qc=True).outcomes[0].status == "done"


def test_an_overwrite_that_fails_leaves_no_picture_and_no_copies_of_other_labels(run, make_scan, tmp_path, monkeypatch):
    pytest.importorskip("nrrd")
    data, out = tmp_path / "in", tmp_path / "out"
    make_scan().save(data / "a_T2w.nii.gz")
    run([data], out, qc=True, seg_nrrd=True)
    with no_label_map_written(monkeypatch):
        make_scan(slices=4).save(data / "a_T2w.nii.gz")
        assert "no space left" in run([data], out, qc=True, overwrite=True).failures[0].reason
    assert run([data], out).outcomes[0].status == "done", "without --overwrite: what is there is nobody's result"
    label, copy = nib.load(out / "a_T2w_dseg.nii.gz"), out / "a_T2w.seg.nrrd"
    import nrrd

    voxels, _ = nrrd.read(str(copy))
    assert voxels.shape == label.shape and voxels.shape[0] == 4 and not (out / "a_T2w_qc.png").exists()


def test_a_scan_that_another_call_has_done_in_the_meantime_is_kept(run, make_scan, tmp_path, monkeypatch, bundle_dir):
    scan, out = make_scan().save(tmp_path / "in/a_T2w.nii.gz"), tmp_path / "out"
    scores = scan_work.ScanWork.scores

    def while_another_call_ends(self, *arguments):
        with monkeypatch.context() as undone:
            undone.setattr(scan_work.ScanWork, "scores", scores)
            assert run([scan], out, qc=True).outcomes[0].status == "done"
        return scores(self, *arguments)

    monkeypatch.setattr(scan_work.ScanWork, "scores", while_another_call_ends)
    assert run([scan], out, qc=True).outcomes[0].status == "kept"


@contextmanager
def no_label_map_written(monkeypatch):
    """A disk that is full when the label map comes, after all that lies beside it."""
    write = label_ownership.write_atomically

    def full(path, content, **options):
        if path.name.endswith("_dseg.nii.gz"):
            raise OSError("no space left")
        return write(path, content, **options)

    with monkeypatch.context() as patched:
        patched.setattr(label_ownership, "write_atomically", full)
        yield


def test_other_weights_or_settings_are_told_and_overwrite_replaces(run, make_scan, tmp_path):
    data, out = tmp_path / "in", tmp_path / "out"
    make_scan().save(data / "a_T2w.nii.gz")
    run([data], out)
    result = run([data], out, raw=True)
    assert result.outcomes[0].status == "kept" and "other weights or settings" in result.outcomes[0].reason
    result = run([data], out, raw=True, overwrite=True)
    assert result.outcomes[0].status == "done" and result.outcomes[0].record["Levels"] is None
    assert run([data], out, raw=True).outcomes[0].reason == ""


def test_the_label_map_of_another_scan_is_no_result_of_this_one(run, make_scan, tmp_path):
    first, second = make_scan(seed=1).save(tmp_path / "x/s.nii.gz"), make_scan(seed=2).save(tmp_path / "y/s.nii.gz")
    run([first], tmp_path / "out")
    result = run([second], tmp_path / "out")
    (reason,) = [failed.reason for failed in result.failures]
    assert f"label map of another scan ({first}). Fix: choose another output folder" in reason
    assert "--overwrite" not in reason, "the way out would lose the first"
    (done,) = run([second], tmp_path / "out", overwrite=True).outcomes
    assert done.status == "done" and done.reason.endswith("the label map of another scan (x/s.nii.gz)")
    assert _rows(tmp_path / "out" / "scans.csv")[0]["warnings"].startswith("replaced")
    assert run([second], tmp_path / "out", overwrite=True).outcomes[0].reason == "", "its own"
    second.write_bytes(first.read_bytes())
    (reason,) = [failed.reason for failed in run([second], tmp_path / "out").failures]
    assert "or of this one before it was changed" in reason and "--overwrite" in reason


def saved_by_the_transform(scan, path, output):
    """A label map with a gap, as the bundle's plain MONAI form writes it."""
    codes = np.where(scan.label == MRSPINESEG.code_of("L3/L4"), 0, scan.label)
    tensor = MetaTensor(torch.from_numpy(codes)[None], affine=torch.from_numpy(scan.affine))
    tensor.meta["filename_or_obj"] = str(path)
    SaveLabelsd(output_dir=output)({"pred": tensor})


@pytest.mark.parametrize("hashed", [True, False])
def test_a_label_map_of_the_plain_form_is_of_its_own_scan_only_and_is_measured(run, make_scan, tmp_path, hashed):
    out, scan = tmp_path / "out", make_scan(seed=1)
    first, second = scan.save(tmp_path / "x/s.nii.gz"), make_scan(seed=2).save(tmp_path / "y/s.nii.gz")
    saved_by_the_transform(scan, first, out)
    record = json.loads((out / "s_dseg.json").read_text())
    assert record["SourceSha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    if not hashed:  # as version 0.3 wrote it
        del record["SourceSha256"]
        (out / "s_dseg.json").write_text(json.dumps(record))
    assert "label map of another scan" in run([second], out).failures[0].reason
    (kept,) = run([first], out).outcomes
    assert kept.status == "kept" and kept.alarms == ["gap"] and len(_rows(out / "structures.csv")) == 19


def test_copies_and_picture_of_old_labels_never_stay_beside_new_ones(run, make_scan, tmp_path, monkeypatch):
    nrrd = pytest.importorskip("nrrd", reason="pynrrd of the extra `slicer` is not installed")
    out, scan = tmp_path / "out", make_scan(seed=1)
    path, copy = scan.save(tmp_path / "in/s.nii.gz"), out / "s.seg.nrrd"
    run([path], out, qc=True, seg_nrrd=True)
    scan.image[scan.label == MRSPINESEG.code_of("L3/L4")] = 0
    scan.save(path)
    (done,) = run([path], out, overwrite=True).outcomes
    assert (done.picture, done.lacking) == (None, "") and not (out / "s_qc.png").exists()
    np.testing.assert_array_equal(nrrd.read(str(copy))[0], np.asarray(nib.load(done.label).dataobj))

    def not_installed(*_):
        raise ImportError("pynrrd is not installed")

    monkeypatch.setattr("cps4_monai.inference.hand_on.seg_nrrd_bytes", not_installed)
    (out / "s_seg.dcm").write_bytes(b"cps4_monai, of a series of that name")
    (done,) = run([path], out, overwrite=True).outcomes
    assert done.status == "done" and not copy.exists() and not (out / "s_seg.dcm").exists()
    assert "no s.seg.nrrd: pynrrd is not installed" in done.lacking and "no s_seg.dcm: " in done.lacking
    copy.write_bytes(b"not ours")
    assert run([path], out, overwrite=True).outcomes[0].lacking == "" and copy.read_bytes() == b"not ours"


def test_a_series_is_not_chosen_among_scans_of_which_none_is_dicom(run, make_scan, tmp_path):
    make_scan().save(tmp_path / "in/a_T2w.nii.gz")
    with pytest.raises(ValueError, match="series is 't2 sag', and none of the 1 scans is DICOM"):
        run([tmp_path / "in"], tmp_path / "out", series="t2 sag")
    assert not list((tmp_path / "out").glob("*"))


def test_a_label_map_of_weights_with_another_anatomy_is_not_named_by_these(run, make_scan, tmp_path, edited_bundle):
    """Its codes mean other levels: kept, its tables, picture and copies would name them wrongly."""
    make_scan().save(tmp_path / "in/a_T2w.nii.gz")
    assert run([tmp_path / "in"], tmp_path / "out").outcomes[0].status == "done"
    swapped = MRSPINESEG.to_dict()
    codes = {2: 3, 3: 2}  # L5 and L4
    structures = [{**one, "code": codes.get(one["code"], one["code"])} for one in swapped["structures"]]
    swapped["structures"] = sorted(structures, key=lambda one: one["code"])
    other = edited_bundle(anatomy=swapped)
    before = _stamps(tmp_path / "out")
    (outcome,) = run([tmp_path / "in"], tmp_path / "out", weights=other, seg_nrrd=True).outcomes
    assert outcome.status == "failed" and "made with weights of another anatomy" in outcome.reason
    assert "--overwrite" in outcome.reason and _stamps(tmp_path / "out") == before
    (outcome,) = run([tmp_path / "in"], tmp_path / "out", weights=other, overwrite=True).outcomes
    assert outcome.status == "done"


def test_the_picture_of_a_kept_label_map_is_drawn_on_the_spacing_that_it_was_made_with(run, make_scan, tmp_path):
    scan = make_scan()
    header = nib.Nifti1Image(scan.image, None)
    (tmp_path / "in").mkdir()
    nib.save(header, tmp_path / "in/a_T2w.nii.gz")  # neither sform nor qform
    given = {"assume_spacing": [float(mm) for mm in np.abs(scan.affine[:3, :3]).sum(axis=0)]}
    assert run([tmp_path / "in"], tmp_path / "out", qc=False, **given).outcomes[0].status == "done"
    (outcome,) = run([tmp_path / "in"], tmp_path / "out", qc=True).outcomes
    assert outcome.status == "kept" and (tmp_path / "out/a_T2w_qc.png").is_file()


def test_a_result_that_is_saved_over_another_takes_its_copies_along(run, make_scan, tmp_path, bundle_dir):
    nrrd = pytest.importorskip("nrrd", reason="pynrrd of the extra `slicer` is not installed")
    make_scan().save(tmp_path / "in/a_T2w.nii.gz")
    run([tmp_path / "in"], tmp_path / "out", seg_nrrd=True)
    copy = tmp_path / "out/a_T2w.seg.nrrd"
    assert copy.is_file()
    result = segment(tmp_path / "in/a_T2w.nii.gz", weights=bundle_dir, device="cpu")
    result.labels[result.labels == 2] = 3
    before = copy.read_bytes()
    with pytest.raises(ForeignFileError, match="is there already"):
        result.save(tmp_path / "out")
    assert copy.read_bytes() == before
    result.save(tmp_path / "out", overwrite=True)
    again = nrrd.read(str(copy))[0]
    assert not (again == 2).any() and (again == 3).any()


def test_two_scans_of_one_name_in_two_folders(run, make_scan, tmp_path):
    inputs = [make_scan(seed=s).save(tmp_path / s_dir / "scan.nii.gz") for s, s_dir in ((1, "a"), (2, "b"))]
    run(inputs, tmp_path / "out")
    assert (tmp_path / "out/a/scan_dseg.nii.gz").exists() and (tmp_path / "out/b/scan_dseg.nii.gz").exists()


@pytest.mark.parametrize("name", ["Wirbelsäule Müller (T2) 2.nii.gz", "脊椎 扫描.nii.gz", "a.b.c.nii"])
def test_names_with_spaces_and_other_letters(run, make_scan, tmp_path, name):
    data = tmp_path / "Ordner mit Lücke"
    make_scan(slices=3).save(data / name)
    result = run([data], tmp_path / "Ausgabe ü", qc=True)
    stem = name.removesuffix(".gz").removesuffix(".nii")
    assert not result.failures
    assert (tmp_path / "Ausgabe ü" / f"{stem}_dseg.nii.gz").exists() and _rows(tmp_path / "Ausgabe ü/scans.csv")[0][
        "scan"
    ] == stem
    assert json.loads((tmp_path / "Ausgabe ü" / f"{stem}_dseg.json").read_text("utf-8"))["Sources"] == [
        str(data / name)
    ]
    assert (tmp_path / "Ausgabe ü" / f"{stem}_qc.png").read_bytes().startswith(b"\x89PNG")


def test_output_folder_equal_to_input_folder_spares_the_ground_truth(run, make_scan, tmp_path):
    scan = make_scan()
    scan.save(tmp_path / "sub-1_T2w.nii.gz")
    nib.save(nib.Nifti1Image(scan.label, scan.affine), tmp_path / "sub-1_dseg.nii.gz")
    truth = (tmp_path / "sub-1_dseg.nii.gz").read_bytes()
    for _ in range(2):
        result = run([tmp_path], tmp_path)
        assert [o.name for o in result.segmented] == ["sub-1_T2w"] and not result.failures
    assert (tmp_path / "sub-1_dseg.nii.gz").read_bytes() == truth
    assert (tmp_path / "sub-1_T2w_dseg.nii.gz").exists()


@pytest.mark.parametrize("foreign", ["s_dseg.nii.gz", "s_dseg.json", "s_qc.png"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_never_overwritten(run, make_scan, tmp_path, foreign, overwrite):
    scan = make_scan().save(tmp_path / "in/s.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / foreign).write_bytes(b'{"by": "someone else"}')
    result = run([scan], tmp_path / "out", overwrite=overwrite, qc=True)
    assert "never" in result.failures[0].reason
    assert (tmp_path / "out" / foreign).read_bytes() == b'{"by": "someone else"}'


@pytest.mark.parametrize("foreign", ["report.html", "scans.csv", "dseg.tsv"])
def test_tables_of_others_stop_the_run_before_any_work(run, make_scan, tmp_path, foreign):
    scan = make_scan().save(tmp_path / "in/s.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / foreign).write_text("mine")
    with pytest.raises(ForeignFileError, match="never overwritten"):
        run([scan], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [foreign]


def test_an_edited_label_map_is_somebodys_work_and_stays(run, make_scan, tmp_path):
    scan = make_scan().save(tmp_path / "in/s.nii.gz")
    run([scan], tmp_path / "out")
    label = tmp_path / "out/s_dseg.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(label).dataobj) * 0, nib.load(label).affine), label)
    edited, sidecar = label.read_bytes(), (tmp_path / "out/s_dseg.json").read_bytes()
    for overwrite in (False, True):
        result = run([scan], tmp_path / "out", overwrite=overwrite, qc=True)
        (outcome,) = result.outcomes
        assert outcome.status == "kept" and "edited since" in outcome.reason and "--accept" in outcome.reason
        assert label.read_bytes() == edited and (tmp_path / "out/s_dseg.json").read_bytes() == sidecar
        (row,) = _rows(tmp_path / "out/scans.csv")  # told as it is now: empty
        assert row["structures"] == "0" and "no_spine_found" in row["alarms"] and row["margin"] == ""
        assert outcome.picture is not None and outcome.picture.exists()


def test_an_edited_label_map_of_another_scan_is_no_result_of_this_one(run, make_scan, tmp_path):
    run([make_scan(seed=0).save(tmp_path / "in/s.nii.gz")], tmp_path / "out")
    label = tmp_path / "out/s_dseg.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(label).dataobj) * 0, nib.load(label).affine), label)
    edited = label.read_bytes()
    result = run([make_scan(seed=1).save(tmp_path / "in/s.nii.gz")], tmp_path / "out", overwrite=True)
    assert "changed since" in result.failures[0].reason and label.read_bytes() == edited


def test_copies_of_an_edited_label_map_wait_for_a_person_to_accept_it(run, make_scan, tmp_path):
    pytest.importorskip("nrrd")
    scan = make_scan().save(tmp_path / "in/s.nii.gz")
    run([scan], tmp_path / "out")
    label = tmp_path / "out/s_dseg.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(label).dataobj) * 0, nib.load(label).affine), label)
    result = run([scan], tmp_path / "out", seg_nrrd=True)
    assert "relabel --accept" in result.lacking[0].lacking and not (tmp_path / "out/s.seg.nrrd").exists()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that not even root can write")
def test_an_output_folder_that_cannot_be_written_is_told_at_once(run, make_scan, tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        run([make_scan().save(tmp_path / "s.nii.gz")], "/proc/cps4_out")


def test_label_maps_among_the_scans_of_a_folder_are_skipped_by_their_content(run, make_scan, tmp_path):
    scan = make_scan()
    scan.save(tmp_path / "in/case1.nii.gz")
    nib.save(nib.Nifti1Image(scan.label.astype(np.float32), scan.affine), tmp_path / "in/case1_truth.nii.gz")
    result = run([tmp_path / "in"], tmp_path / "out")
    assert [(o.name, o.status) for o in result.outcomes] == [("case1", "done"), ("case1_truth", "skipped")]
    assert "case1_truth" in result.report.read_text("utf-8") and len(_rows(tmp_path / "out/scans.csv")) == 1


def test_any_number_of_jobs_gives_the_same_files(run, make_scan, tmp_path):
    for name in "abcde":
        make_scan(slices=3, seed=ord(name)).save(tmp_path / f"in/{name}.nii.gz")
    for jobs in (1, 4):
        run([tmp_path / "in"], tmp_path / str(jobs), jobs=jobs)
    for path in (tmp_path / "1").glob("*_dseg.nii.gz"):
        assert path.read_bytes() == (tmp_path / "4" / path.name).read_bytes()
    with pytest.raises(ValueError, match="jobs is 0"):
        run([tmp_path / "in"], tmp_path / "0", jobs=0)
