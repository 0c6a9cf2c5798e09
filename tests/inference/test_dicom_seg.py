"""DICOM Segmentation objects of the coded scans: read back by highdicom, voxel for voxel, and what they say."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai import segment_scans
from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.commands.segment import segment
from cps4_monai.data.label_ownership import ForeignFileError

highdicom = pytest.importorskip("highdicom", reason="highdicom of the extra `dicom` is not installed")


@pytest.fixture()
def series(dicom, make_scan, tmp_path):
    """Function that writes the series of the coded scan with what a SEG needs, in files or enhanced."""

    def write(enhanced=False, keep=("FrameOfReferenceUID",)):
        slices = dicom.twin_of(make_scan(), SliceThickness=3.6, FrameOfReferenceUID="1.2.3.99")[::-1]
        one = dicom.enhanced_of(slices) if enhanced else None
        for dataset in [one] if one else slices:
            dataset.FrameOfReferenceUID = "1.2.3.99"
            if "FrameOfReferenceUID" not in keep:
                del dataset.FrameOfReferenceUID
        return dicom.save_all(tmp_path / "in" / "scan", [one] if one else slices)

    return write


@pytest.fixture()
def run(bundle_dir, tmp_path):
    def call(folder, **settings):
        common = {"weights": bundle_dir, "device": "cpu", "qc": False, "dicom_seg": True}
        return segment_scans([folder], tmp_path / "out", **{**common, **settings})

    return call


def _back(seg, labels):
    """(X, Y, Z) codes of a SEG, by its own geometry, on the grid of the label map (RAS+)."""
    volume = seg.get_volume(combine_segments=True)
    to_label = np.linalg.inv(labels.affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
    at = np.argwhere(volume.array > 0)
    voxels = (to_label @ np.c_[at, np.ones(len(at))].T)[:3].T
    assert np.abs(voxels - np.round(voxels)).max() < 1e-3
    names = ["background", *(seg.get_segment_description(n).segment_label for n in seg.segment_numbers)]
    codes = np.array([MRSPINESEG.code_of(name) for name in names])
    back = np.zeros(labels.shape, np.uint8)
    back[tuple(np.round(voxels).astype(int).T)] = codes[volume.array[tuple(at.T)]]
    return back


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_seg_is_the_label_map_voxel_for_voxel(series, run, tmp_path, enhanced):
    result = run(series(enhanced))
    assert not result.failures
    seg, labels = highdicom.seg.segread(tmp_path / "out/scan_seg.dcm"), nib.load(tmp_path / "out/scan_dseg.nii.gz")
    np.testing.assert_array_equal(_back(seg, labels), np.asarray(labels.dataobj))
    assert seg.number_of_segments == len(np.unique(labels.dataobj)) - 1 > 5


def test_a_seg_names_structures_source_and_algorithm(series, run, tmp_path):
    result = run(series())
    seg, weights = highdicom.seg.segread(tmp_path / "out/scan_seg.dcm"), result.outcomes[0].record["Weights"]
    of_name = {d.segment_label: d for d in map(seg.get_segment_description, seg.segment_numbers)}
    l5, disc = of_name["L5"].segmented_property_type, of_name["L5/S"].segmented_property_type
    assert (l5.value, l5.scheme_designator, l5.meaning) == ("49668003", "SCT", "L5 vertebra")
    assert (disc.value, disc.meaning) == ("715056000", "L5/S1 disc")
    algorithm = of_name["L5"].algorithm_identification
    assert algorithm.name == f"cps4_monai {weights['Name']}" and algorithm.version == weights["Version"]
    assert dict(algorithm.parameters) == {"weights_sha256": weights["Sha256"]}
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.3.1" and len(referenced.ReferencedInstanceSequence) == 5
    assert (seg.PatientID, seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("77", "1.2.3", "1.2.3.99")


def test_dciodvfy_finds_no_error(series, run, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    run(series())
    told = subprocess.run(["dciodvfy", str(tmp_path / "out/scan_seg.dcm")], capture_output=True, text=True).stderr
    assert "Segmentation" in told and "Error" not in told, told


def test_a_seg_is_made_later_and_never_over_a_foreign_file(series, run, tmp_path):
    folder, seg = series(), tmp_path / "out/scan_seg.dcm"
    run(folder, dicom_seg=False)
    assert not seg.exists()
    assert [one.status for one in run(folder).outcomes] == ["kept"] and seg.exists()
    seg.write_bytes(b"not ours")
    (failed,) = run(folder, overwrite=True).failures
    assert "scan_seg.dcm" in failed.reason and seg.read_bytes() == b"not ours"


def test_a_series_that_a_seg_cannot_refer_to_is_segmented_and_what_it_lacks_is_said(series, run, tmp_path):
    folder = series(keep=())
    result = run(folder)
    (lacking,) = result.lacking
    assert not result.failures and lacking.status == "done" and (tmp_path / "out/scan_dseg.nii.gz").exists()
    assert "no scan_seg.dcm" in lacking.lacking and "found no FrameOfReferenceUID" in lacking.lacking
    assert "Fix: " in lacking.lacking and not (tmp_path / "out/scan_seg.dcm").exists()
    (again,) = run(folder).outcomes
    assert (again.status, again.lacking) == ("kept", lacking.lacking)
    with (tmp_path / "out/scans.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert "found no FrameOfReferenceUID" in row["warnings"] and row["status"] == "kept"


def test_places_that_were_assumed_make_a_label_map_and_no_seg(dicom, make_scan, bundle_dir, tmp_path):
    slices = dicom.twin_of(make_scan(), FrameOfReferenceUID="1.2.3.99")
    for one in slices:
        del one.ImagePositionPatient
    folder, out = dicom.save_all(tmp_path / "in" / "scan", slices), tmp_path / "out"
    command = [folder, "-o", out, "--weights", bundle_dir, "--device", "cpu", "--no-qc", "--dicom-seg"]
    told = CliRunner().invoke(segment, [*map(str, command), "--assume-spacing", "4,2,2"])
    assert told.exit_code == 1 and "1 segmented, 0 kept, 0 failed" in told.output
    assert "segmented, but no scan_seg.dcm" in told.output
    assert f"found no usable ImagePositionPatient in {len(slices)} of {len(slices)} images" in told.output
    assert nib.load(out / "scan_dseg.nii.gz").header.get_zooms() == pytest.approx((4, 2, 2))
    assert not (out / "scan_seg.dcm").exists()


@pytest.mark.parametrize("tag", ["SliceThickness", "StudyID", "PatientBirthDate", "InstanceNumber", "ImageType"])
def test_a_series_that_lacks_a_tag_gets_its_seg_all_the_same(dicom, make_scan, run, tmp_path, tag):
    slices = dicom.twin_of(make_scan(), FrameOfReferenceUID="1.2.3.99")
    for one in slices:
        if tag in one:
            delattr(one, tag)
    result = run(dicom.save_all(tmp_path / "in" / "scan", slices))
    assert not result.lacking
    seg, labels = highdicom.seg.segread(tmp_path / "out/scan_seg.dcm"), nib.load(tmp_path / "out/scan_dseg.nii.gz")
    np.testing.assert_array_equal(_back(seg, labels), np.asarray(labels.dataobj))


def test_a_seg_of_scans_that_are_no_dicom_series_is_refused(run, make_scan, tmp_path):
    make_scan().save(tmp_path / "nifti/a.nii.gz")
    with pytest.raises(ValueError, match=r"found no DICOM series among the inputs.*Fix: "):
        run(tmp_path / "nifti")


def test_patient_and_study_are_hashed_unless_asked_for(series, run, tmp_path):
    folder, sidecar = series(), tmp_path / "out/scan_dseg.json"
    run(folder, dicom_seg=False)
    text = sidecar.read_text()
    assert '"1.2.3"' not in text and '"77"' not in text and "Meier" not in text
    # sha256 of "77", by sha256sum
    expected = "a88a7902cb4ef697ba0b6759c50e8c10297ff58f942243de19b984841bfe1f73"
    assert json.loads(text)["Series"]["PatientIDSha256"] == expected
    run(folder, dicom_seg=False, overwrite=True, identify=True)
    record = json.loads(sidecar.read_text())["Series"]
    assert (record["PatientID"], record["StudyInstanceUID"]) == ("77", "1.2.3")


@pytest.mark.parametrize("declared", ["ISO_IR 100", "ISO_IR 6  ", "ISO_IR 192"])
def test_letters_of_a_name_reach_the_seg_whatever_the_series_declares(series, run, tmp_path, declared):
    """ISO_IR 6, the default of the standard (PS3.3, C.12.1.1.2), is written out by some scanners."""
    pydicom, folder = pytest.importorskip("pydicom"), series()
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        one.SpecificCharacterSet = "ISO_IR 192" if declared == "ISO_IR 192" else "ISO_IR 100"
        one.PatientName = "Meier^Jürgen"
        one.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", declared.encode()))
    result = run(folder)
    assert not result.failures and not result.outcomes[0].warnings
    seg = highdicom.seg.segread(tmp_path / "out/scan_seg.dcm")
    assert (seg.SpecificCharacterSet, str(seg.PatientName)) == ("ISO_IR 192", "Meier^Jürgen")


def test_two_series_of_a_folder_under_one_name_are_two_scans(dicom, make_scan, run, tmp_path):
    array = dicom.sagittal(make_scan())
    files = [dicom.series_of(array, series=uid, SeriesNumber=int(uid)) for uid in "56"]
    folder = dicom.save_all(tmp_path / "in/scan", [one for slices in files for one in slices])
    assert not run(folder, series=5, dicom_seg=False).failures
    (failed,) = run(folder, series=6, dicom_seg=False).failures
    assert "series 5" in failed.reason and "another output folder" in failed.reason
    assert "--overwrite" not in failed.reason, "it would lose the first"
    assert run(folder, series=5, dicom_seg=False).outcomes[0].status == "kept"


def test_an_error_of_ownership_is_one_of_its_own(tmp_path):
    from cps4_monai.inference.hand_on import check_copy

    check_copy(tmp_path / "none.dcm")
    (tmp_path / "there.dcm").write_bytes(b"\0" * 200)
    with pytest.raises(ForeignFileError, match="did not write"):
        check_copy(tmp_path / "there.dcm")
