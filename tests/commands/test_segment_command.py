"""Each row of the inputs page through `cps4 segment`, and what the command tells."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai.commands.segment import segment


@pytest.fixture()
def cps4(bundle_dir, tmp_path):
    """Function that calls the command on files of the folder ``in``; gives the result and the output folder."""

    def call(*arguments, output="out", qc=False):
        given = [str(a) for a in arguments] or [str(tmp_path / "in")]
        common = ["-o", str(tmp_path / output), "-w", str(bundle_dir), "-d", "cpu", *([] if qc else ["--no-qc"])]
        return CliRunner().invoke(segment, [*given, *common]), tmp_path / output

    return call


@pytest.fixture()
def scan(make_scan):
    return make_scan()


def _save(scan, folder, name="s.nii.gz", array=None, change=None):
    """Writes the scan, or another array on its grid, with a changed header."""
    image = nib.Nifti1Image(scan.image if array is None else array, scan.affine)
    image.set_qform(scan.affine, 1)
    folder.mkdir(exist_ok=True)
    content = image.to_bytes()
    if change:  # on the bytes: nibabel would write the header anew
        header = nib.Nifti1Header(binaryblock=content[:348], check=False)
        change(header)
        content = header.binaryblock + content[348:]
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def _mask(out, name="s"):
    return nib.load(out / f"{name}_dseg.nii.gz")


def _reason(out):
    with open(out / "failures.csv", encoding="utf-8", newline="") as file:
        return [row["reason"] for row in csv.DictReader(file)]


def _warnings(out, name="s"):
    return json.loads((out / f"{name}_dseg.json").read_text("utf-8"))["Warnings"]


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u2", "<i4", "<f4", "<f8", ">f4", "<i8"])
@pytest.mark.parametrize("name", ["s.nii", "s.nii.gz"])
def test_any_number_type_and_both_endings(cps4, scan, tmp_path, dtype, name):
    array = np.clip(scan.image, 0, None).astype(dtype)
    image = nib.Nifti1Image(array, scan.affine, dtype=array.dtype)
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / name)
    result, out = cps4()
    assert result.exit_code == 0, result.output
    mask = _mask(out)
    assert mask.get_data_dtype() == np.uint8 and mask.shape == scan.label.shape
    np.testing.assert_array_equal(np.asarray(mask.dataobj), scan.label)
    np.testing.assert_array_equal(mask.affine, nib.load(tmp_path / "in" / name).affine)


def test_unsigned_bytes_and_scaled_values(cps4, scan, tmp_path):
    _save(scan, tmp_path / "in", "byte.nii.gz", np.clip(scan.image / 4, 0, 255).astype(np.uint8))

    def scaled(header):
        header["scl_slope"], header["scl_inter"] = 0.5, -300

    _save(scan, tmp_path / "in", "scaled.nii.gz", change=scaled)
    result, out = cps4()
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.asarray(_mask(out, "scaled").dataobj), scan.label)
    assert (np.asarray(_mask(out, "byte").dataobj) == scan.label).mean() > 0.99


def test_four_dimensional_with_one_time_point_gives_three(cps4, scan, tmp_path):
    _save(scan, tmp_path / "in", array=scan.image[..., None])
    result, out = cps4()
    assert result.exit_code == 0 and _mask(out).shape == scan.label.shape
    np.testing.assert_array_equal(_mask(out).affine, scan.affine)


def test_sform_and_qform_that_disagree(cps4, scan, tmp_path):
    def disagree(header):
        header["qoffset_x"] += 5

    _save(scan, tmp_path / "in", change=disagree)
    result, out = cps4()
    assert result.exit_code == 0 and any("disagree" in w for w in _warnings(out))
    np.testing.assert_allclose(_mask(out).affine, scan.affine)
    before, after = nib.load(tmp_path / "in/s.nii.gz").header, _mask(out).header
    assert float(before["qoffset_x"]) == float(after["qoffset_x"])


@pytest.mark.parametrize("only", ["sform_code", "qform_code"])
def test_one_form_alone_is_that_one(cps4, scan, tmp_path, only):
    def one(header):
        header["sform_code"] = header["qform_code"] = 0
        header[only] = 3

    _save(scan, tmp_path / "in", change=one)
    result, out = cps4()
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.asarray(_mask(out).dataobj), scan.label)
    assert int(_mask(out).header[only]) == 3


def _no_form(header):
    header["sform_code"] = header["qform_code"] = 0


def _no_spacing(header):
    header["pixdim"][1:4] = 0
    _no_form(header)


@pytest.mark.parametrize("change", [_no_form, _no_spacing])
def test_assume_spacing_mends_headers_without_geometry(cps4, make_scan, tmp_path, change):
    scan = make_scan()
    ras = np.ascontiguousarray(scan.image[::-1, ::-1])  # what is assumed are the axes R, A, S
    _save(scan, tmp_path / "in", array=ras, change=change)
    result, out = cps4()
    assert result.exit_code == 1 and "--assume-spacing" in _reason(out)[0]
    result, out = cps4(tmp_path / "in", "--assume-spacing", "4,2,2")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.asarray(_mask(out).dataobj), scan.label[::-1, ::-1])
    assert any("assumed" in w for w in _warnings(out))


def test_isotropic_and_axial_volumes_are_sliced_sagittally(cps4, make_scan, tmp_path):
    thin = make_scan(slices=8, thickness=2.0)
    thin.save(tmp_path / "in/iso.nii.gz")
    axial = nib.Nifti1Image(thin.image[..., ::2], thin.affine @ np.diag([1, 1, 2, 1]))  # thick from head to foot
    nib.save(axial, tmp_path / "in/axial.nii.gz")
    result, out = cps4()
    assert result.exit_code == 0 and not _warnings(out, "iso")
    assert any("not left-right" in w for w in _warnings(out, "axial"))


def test_not_finite_voxels_are_replaced_and_counted(cps4, scan, tmp_path):
    array = scan.image.astype(np.float32)
    array[0, :3, 0] = [np.nan, np.inf, -np.inf]
    _save(scan, tmp_path / "in", array=array)
    result, out = cps4()
    assert result.exit_code == 0 and any("3 voxels" in w for w in _warnings(out))
    np.testing.assert_array_equal(np.asarray(_mask(out).dataobj), scan.label)


def _shear(header):
    header["srow_y"][2] = 0.5


def _singular(header):
    header["srow_z"][:3] = header["srow_y"][:3]


def _negative(header):
    header["pixdim"][2] = -1
    header["sform_code"] = 0


ARRAYS = {
    "several time points": lambda a: np.stack([a, a], axis=-1),
    "complex": lambda a: a.astype(np.complex64),
    "colours": lambda a: a.astype(np.uint8).repeat(3).view([("R", "u1"), ("G", "u1"), ("B", "u1")]).reshape(a.shape),
    "nan": lambda a: np.full(a.shape, np.nan, np.float32),
    "constant": lambda a: np.full(a.shape, 7, np.int16),
}
HEADERS = {"sheared": _shear, "singular": _singular, "negative spacing": _negative}
FILES = {
    "truncated gzip": lambda c: c[: len(c) // 2],
    "truncated": lambda c: gzip.compress(gzip.decompress(c)[:5000]),
    "empty file": lambda c: b"",
    "text": lambda c: b"not an image, but a text that is longer than any header could be. " * 20,
    "compressed text": lambda c: gzip.compress(b"text " * 200),
}


@pytest.mark.parametrize("kind", [*ARRAYS, *HEADERS, *FILES])
def test_what_cannot_be_used_is_recorded_and_the_others_are_segmented(cps4, scan, tmp_path, kind):
    path = _save(scan, tmp_path / "in", "bad.nii.gz", ARRAYS.get(kind, lambda a: a)(scan.image), HEADERS.get(kind))
    path.write_bytes(FILES.get(kind, lambda c: c)(path.read_bytes()))
    _save(scan, tmp_path / "in", "good.nii.gz")
    result, out = cps4()
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert len(_reason(out)) == 1
    for words in (str(path), "found", "expected", "To mend"):
        assert words in _reason(out)[0], _reason(out)
    assert "1 segmented, 0 kept, 1 failed" in result.output and not (out / "bad_dseg.nii.gz").exists()
    assert (out / "good_dseg.nii.gz").exists()


def test_a_missing_file_and_an_empty_folder_are_told(cps4, scan, tmp_path):
    (tmp_path / "empty").mkdir()
    good = _save(scan, tmp_path / "in")
    result, out = cps4(tmp_path / "gone.nii.gz", good, tmp_path / "empty")
    assert result.exit_code == 1 and len(_reason(out)) == 2 and (out / "s_dseg.nii.gz").exists()
    assert "no such file" in _reason(out)[0] and "no scan in this folder" in _reason(out)[1]


def test_folders_say_what_they_skip(cps4, scan, tmp_path):
    _save(scan, tmp_path / "in")
    _save(scan, tmp_path / "in", "s_mask.nii.gz", scan.label)
    _save(scan, tmp_path / "in", "truth.nii.gz", scan.label)
    result, out = cps4()
    assert result.exit_code == 0, result.output
    assert "s_mask.nii.gz: its name says label map" in result.output
    assert "truth.nii.gz: whole numbers, few of them" in result.output
    assert sorted(p.name for p in out.glob("*.nii.gz")) == ["s_dseg.nii.gz"]


def test_bids_datalists_and_files_in_one_call(cps4, scan, tmp_path):
    bids = tmp_path / "bids"
    bids.mkdir()
    (bids / "dataset_description.json").write_text("{}")
    for path in (bids / "sub-1/anat/sub-1_T2w.nii.gz", tmp_path / "list/x/p.nii.gz", tmp_path / "one.nii.gz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        scan.save(path)
    (tmp_path / "list/d.json").write_text(json.dumps({"test": [{"image": "x/p.nii.gz"}]}))
    result, out = cps4(bids, tmp_path / "list/d.json", tmp_path / "one.nii.gz")
    assert result.exit_code == 0, result.output
    for name in ("sub-1/anat/sub-1_T2w", "x/p", "one"):
        assert (out / f"{name}_dseg.nii.gz").exists() and (out / f"{name}_dseg.json").exists()


def test_dicom_folder_with_a_localizer_inside(cps4, scan, tmp_path):
    pytest.importorskip("SimpleITK", reason="the extra `dicom` is not installed")
    import importlib.util
    from pathlib import Path

    where = Path(__file__).resolve().parents[1] / "inference" / "test_dicom.py"
    spec = importlib.util.spec_from_file_location("dicom_writing", where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_series(tmp_path / "in", module.sagittal(scan))
    module.write_series(tmp_path / "in", np.ones((3, 8, 8)), uid="2", t0008_103e="localizer")
    result, out = cps4()
    assert result.exit_code == 0, result.output
    assert any("localizer" in w for w in _warnings(out, "in"))
    assert sorted(_mask(out, "in").shape) == sorted(scan.label.shape)
    result, _ = cps4()
    assert "0 segmented, 1 kept" in result.output


def test_again_and_overwrite(cps4, scan, tmp_path):
    _save(scan, tmp_path / "in")
    result, out = cps4(qc=True)
    assert result.exit_code == 0 and (out / "s_qc.png").exists()
    assert result.output.strip().splitlines()[-1] == f"report: {out / 'report.html'}"
    stamp = (out / "s_dseg.nii.gz").stat().st_mtime_ns
    result, _ = cps4(qc=True)
    assert "0 segmented, 1 kept, 0 failed" in result.output and (out / "s_dseg.nii.gz").stat().st_mtime_ns == stamp
    result, _ = cps4(tmp_path / "in", "--raw")
    assert "1 kept, though made with other weights or settings" in result.output
    result, _ = cps4(tmp_path / "in", "--raw", "--overwrite")
    assert "1 segmented" in result.output and (out / "s_dseg.nii.gz").stat().st_mtime_ns > stamp


def test_a_file_of_somebody_else_is_an_error_and_survives(cps4, scan, tmp_path):
    _save(scan, tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/s_dseg.nii.gz").write_bytes(b"by hand")
    result, out = cps4(tmp_path / "in", "--overwrite")
    assert result.exit_code == 1 and "never overwritten" in _reason(out)[0]
    assert (out / "s_dseg.nii.gz").read_bytes() == b"by hand"


@pytest.mark.parametrize(("arguments", "words"), [
    (("--weights", "/nowhere.zip"), "no such file or folder"), (("--device", "tpu"), "expected auto, cpu"),
    (("--assume-spacing", "0"), "expected one or three positive numbers"), (("--jobs", "0"), "0 is not in the range"),
    (("--batch-size", "0"), "0 is not in the range"),
])  # fmt: skip
def test_wrong_settings_are_told_without_a_traceback(cps4, scan, tmp_path, arguments, words):
    path = _save(scan, tmp_path / "in")
    result, _ = cps4(path, *[a for pair in [arguments] for a in pair])
    if arguments[0] in ("--weights", "--device"):  # given twice: the last one counts
        result = CliRunner().invoke(segment, [str(path), "-o", str(tmp_path / "o"), *arguments])
    assert result.exit_code in (1, 2) and words in result.output and "Traceback" not in result.output


def test_help_shows_examples_and_loads_nothing_heavy():
    code = "import sys; from cps4_monai.commands.segment import segment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    result = CliRunner().invoke(segment, ["--help"])
    assert result.exit_code == 0 and "cps4 segment scan.nii.gz -o out" in result.output
    for option in ("--device", "--weights", "--batch-size", "--overwrite", "--no-qc", "--tta", "--jobs", "--raw"):
        assert option in result.output


def test_a_zip_on_another_path_and_test_time_augmentation(cps4, scan, bundle_dir, tmp_path):
    _save(scan, tmp_path / "in")
    archive = shutil.make_archive(str(tmp_path / "weights of mine"), "zip", bundle_dir)
    arguments = [str(tmp_path / "in"), "-o", str(tmp_path / "o"), "-w", archive, "-d", "cpu", "--tta", "--no-qc"]
    result = CliRunner().invoke(segment, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "o/s_dseg.json").read_text("utf-8"))
    assert record["Settings"]["TestTimeAugmentation"] and record["Weights"]["Name"] == "weights of mine.zip"
