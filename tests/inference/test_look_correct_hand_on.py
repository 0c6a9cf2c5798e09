"""Three real scans from results to corrected results: a page in a real browser, a wrong level clicked right, all agree.

The weights are the released ones. The scans are validation subjects, cut below a lumbar vertebra, so that there is no
sacrum to count from: of one of them the weights then number all levels one too low.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from in_browser import Opened

from cps4_monai import segment_scans
from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.relabel import relabel

LOWEST_IN_VIEW = {"sub-005": "L4", "sub-052": "L3", "sub-110": "L4"}
WRONG = "sub-052"
SLICES = 4


def cut_scan(spider_dir, subject):
    """Image and label (slice, anterior to posterior, superior to inferior) of a few middle slices, and their affine."""
    image, label = (nib.load(spider_dir / "volumes" / f"{subject}_{kind}.nii.gz") for kind in ("T2w", "dseg"))
    codes = np.asarray(label.dataobj)
    middle = codes.shape[0] // 2
    part = slice(middle - SLICES // 2, middle + SLICES // 2)
    lowest = codes == MRSPINESEG.code_of(LOWEST_IN_VIEW[subject])
    end = int(np.flatnonzero(lowest.any(axis=(0, 1))).max()) + 1
    return np.asarray(image.dataobj)[part, :, :end], codes[part, :, :end], label.affine


@pytest.fixture(scope="module")
def segmented(spider_dir, dicom, tmp_path_factory):
    """Results of the three; the one that comes out wrong is a DICOM series, with a SEG."""
    pytest.importorskip("highdicom", reason="highdicom of the extra `dicom` is not installed")
    pytest.importorskip("nrrd", reason="pynrrd of the extra `slicer` is not installed")
    if not (find_bundle_root() / "models" / "model.pt").is_file():
        pytest.skip("the released weights are not here")
    folder, truth = tmp_path_factory.mktemp("three"), {}
    for subject in LOWEST_IN_VIEW:
        image, truth[subject], affine = cut_scan(spider_dir, subject)
        if subject != WRONG:
            nib.save(nib.Nifti1Image(image, affine), folder / f"{subject}.nii.gz")
            continue
        spacing = np.abs(np.diag(affine))[[2, 1, 0]]  # rows, columns, slices
        rows_down = image.transpose(0, 2, 1).astype(np.uint16)
        series = dicom.series_of(rows_down, spacing, step=(spacing[2], 0, 0), FrameOfReferenceUID="1.2.3.99")
        dicom.save_all(folder / subject, series)
    run = segment_scans(folder, folder / "out", device="cpu", dicom_seg=True, seg_nrrd=True)
    assert not run.failures
    return run.output, truth


def level_errors(output, subject, truth):
    """Vertebral levels, up to the head, by which vertebrae are off, each voxel's."""
    codes = np.asarray(nib.load(output / f"{subject}_dseg.nii.gz").dataobj)
    if subject == WRONG:  # axes of the label map of a series run to the left, back and up
        codes = codes[:, :, ::-1] if nib.load(output / f"{subject}_dseg.nii.gz").affine[2, 2] > 0 else codes
    both = (codes > 0) & (codes < 11) & (truth > 0) & (truth < 11)
    return np.unique(codes[both].astype(int) - truth[both], return_counts=True)


def main_error(output, subject, truth):
    errors, counts = level_errors(output, subject, truth)
    assert counts.max() > 0.95 * counts.sum()
    return int(errors[counts.argmax()])


def names_of(output, subject):
    """Structures as each file names them: label map, tables, JSON, report's viewer, SEG and .seg.nrrd."""
    import highdicom
    import nrrd

    codes = np.unique(np.asarray(nib.load(output / f"{subject}_dseg.nii.gz").dataobj))
    mask = [MRSPINESEG[code].name for code in codes if code]
    with open(output / "structures.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["scan"] == subject]
    record = json.loads((output / f"{subject}_dseg.json").read_text())
    header = nrrd.read_header(str(output / f"{subject}.seg.nrrd"))
    names = {
        "mask": mask,
        "structures.csv": [row["name"] for row in rows if row["state"] in ("present", "cut")],
        "json": [s["name"] for s in record["Structures"] if s["state"] in ("present", "cut")],
        ".seg.nrrd": [header[f"Segment{n}_Name"] for n in range(len(mask))],
    }
    if subject == WRONG:
        seg = highdicom.seg.segread(output / f"{subject}_seg.dcm")
        names["SEG"] = [seg.get_segment_description(n).segment_label for n in seg.segment_numbers]
    return names


def test_a_wrong_level_is_clicked_right_and_all_files_follow(browser, segmented, tmp_path):
    output, truth = segmented
    assert {s: main_error(output, s, truth[s]) for s in truth} == {"sub-005": 0, "sub-052": -1, "sub-110": 0}
    opened = Opened(browser, output / "report.html")
    opened.page.select_option("[data-show=scan]", value=str(opened.place_of(WRONG)))
    opened.wait_for_scan(WRONG)
    opened.page.mouse.click(*opened.point_at("L4"))
    assert opened.text("selected").startswith("Chosen: L4")
    opened.page.select_option("[data-set=level]", "L3")
    assert ["L4", "L3"] in [chip.replace("\n", " ").split() for chip in opened.chips()]
    opened.page.click("[data-do=fine]")
    opened.page.fill("[data-set=by]", "R. Eader")
    corrections = opened.corrections()
    assert not opened.complaints and not opened.foreign
    opened.page.close()
    assert [(one["scan"], one["level"], one["accepted"]) for one in corrections["scans"]] == [
        (WRONG, {"code": 3, "is": "L3"}, True)
    ]
    (tmp_path / "corrections.json").write_text(json.dumps(corrections))

    before = {path.name: path.read_bytes() for path in output.iterdir() if path.name.startswith(("sub-005", "sub-110"))}
    result = CliRunner().invoke(relabel, [str(output), "--corrections", str(tmp_path / "corrections.json")])
    assert result.exit_code == 0 and "1 applied, 0 refused" in result.output, result.output
    assert main_error(output, WRONG, truth[WRONG]) == 0
    for subject in truth:
        named = names_of(output, subject)
        assert all(names == named["mask"] for names in named.values()), named
    assert {name: (output / name).read_bytes() for name in before} == before
    with open(output / "scans.csv", encoding="utf-8", newline="") as file:
        scans = {row["scan"]: row for row in csv.DictReader(file)}
    mask = names_of(output, WRONG)["mask"]
    assert scans[WRONG]["review"] == "accepted" and scans[WRONG]["lowest"] in mask and "L4" not in mask
    record = json.loads((output / f"{WRONG}_dseg.json").read_text())
    assert record["Corrections"][-1]["By"] == "R. Eader" and record["Corrections"][-1]["Renamed"]["L4"] == "L3"

    again = Opened(browser, output / "report.html")
    again.page.select_option("[data-show=scan]", value=str(again.place_of(WRONG)))
    again.wait_for_scan(WRONG)
    assert sorted(again.chips()) == sorted(mask)
    again.page.close()


def test_the_corrected_seg_is_the_mask_voxel_for_voxel_and_valid(segmented):
    """After the correction of the test before, or, run alone, of the results as they came."""
    import highdicom

    output, _ = segmented
    labels = nib.load(output / f"{WRONG}_dseg.nii.gz")
    seg = highdicom.seg.segread(output / f"{WRONG}_seg.dcm")
    volume = seg.get_volume(combine_segments=True)
    to_label = np.linalg.inv(labels.affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
    at = np.argwhere(volume.array > 0)
    voxels = np.round((to_label @ np.c_[at, np.ones(len(at))].T)[:3]).astype(int)
    names = [None, *(seg.get_segment_description(n).segment_label for n in seg.segment_numbers)]
    codes = np.array([0 if name is None else MRSPINESEG.code_of(name) for name in names])
    back = np.zeros(labels.shape, np.uint8)
    back[tuple(voxels)] = codes[volume.array[tuple(at.T)]]
    np.testing.assert_array_equal(back, np.asarray(labels.dataobj))
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    told = subprocess.run(["dciodvfy", str(output / f"{WRONG}_seg.dcm")], capture_output=True, text=True).stderr
    assert "Error" not in told, told
