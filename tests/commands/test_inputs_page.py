"""What an input gets: one check or more for each row of the inputs page, under the row's own words.

Further rows are in the files test_inputs_page_of_*.py beside this one.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.data.scan_folder import find_scans

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"
GEOMETRY = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
            "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")  # fmt: skip
row = pytest.mark.row


def same_geometry(inputs, name: str = "s") -> None:
    """The label map's header has the scan's geometry, bit for bit."""
    (scan,) = inputs.folder.rglob(f"{name}.nii*")
    before, after = nib.load(scan).header, inputs.mask(name).header
    for field in GEOMETRY:
        assert before[field].tobytes() == after[field].tobytes(), (name, field)
    assert inputs.mask(name).get_data_dtype() == np.uint8


ANY_NIFTI = (
    "3-D NIfTI, any of 48 orientations, oblique, anisotropic, .nii or .nii.gz, any integer or float type, scaled "
    "(slope, intercept), big-endian"
)


@row(ANY_NIFTI)
def test_number_types(inputs):
    array = np.clip(inputs.scan.image, 0, None)
    names = {
        f"{dtype[1:]}{'big' if dtype[0] == '>' else ''}{ending}": dtype
        for dtype in ("<i2", ">i2", "<u2", "<i4", "<u4", "<f4", "<f8", ">f4", "<i8")
        for ending in (".nii", ".nii.gz")
    }
    for name, dtype in names.items():
        inputs.save(f"{name.replace('.', '_')}/{name}", array.astype(dtype))
    inputs.save("bytes.nii.gz", np.clip(array // 4, 0, 255).astype(np.uint8))
    inputs.segmented()
    for name in names:
        stem = f"{name.replace('.', '_')}/{name.split('.')[0]}"
        np.testing.assert_array_equal(inputs.codes(stem), inputs.scan.label)
    assert (inputs.codes("bytes") == inputs.scan.label).mean() > 0.99


@row(ANY_NIFTI)
def test_scaled(inputs):
    def change(header):
        header["scl_slope"], header["scl_inter"] = 0.5, -300

    inputs.save(change=change)
    inputs.segmented()
    np.testing.assert_array_equal(inputs.codes(), inputs.scan.label)


@row(ANY_NIFTI)
def test_all_48_orientations(inputs):
    truth = {}
    for number, (axes, flips) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    ):
        orientation = np.array([[axes[i], flips[i]] for i in range(3)], float)
        image, label = (
            nib.Nifti1Image(array, inputs.scan.affine).as_reoriented(orientation)
            for array in (inputs.scan.image, inputs.scan.label)
        )
        inputs.save(f"o{number}.nii", np.asarray(image.dataobj), affine=image.affine)
        truth[f"o{number}"] = np.asarray(label.dataobj)
    inputs.segmented()
    assert len(truth) == 48
    for name, label in truth.items():
        np.testing.assert_array_equal(inputs.codes(name), label)
        same_geometry(inputs, name)


@row(ANY_NIFTI)
def test_oblique(inputs):
    for number, degrees in enumerate(((10, 0, 0), (0, 20, 0), (-15, 10, 25))):
        rotation = np.eye(4)
        rotation[:3, :3] = nib.eulerangles.euler2mat(*np.deg2rad(degrees))
        turned = nib.Nifti1Image(inputs.scan.image, rotation @ inputs.scan.affine)
        turned = turned.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]], float)) if number else turned
        inputs.save(f"o{number}.nii.gz", np.asarray(turned.dataobj), affine=turned.affine)
    inputs.segmented()
    np.testing.assert_array_equal(inputs.codes("o0"), inputs.scan.label)
    for name in ("o1", "o2"):
        canonical = nib.Nifti1Image(inputs.scan.label, inputs.scan.affine)
        turned = canonical.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]], float))
        np.testing.assert_array_equal(inputs.codes(name), np.asarray(turned.dataobj))
        same_geometry(inputs, name)


@row(ANY_NIFTI)
def test_anisotropic(inputs):
    fine = np.repeat(inputs.scan.image, 3, axis=2)
    inputs.save(array=fine, affine=inputs.scan.affine @ np.diag([1, 1, 1 / 3, 1]))
    inputs.segmented()
    assert inputs.codes().shape == fine.shape
    assert (inputs.codes() == np.repeat(inputs.scan.label, 3, axis=2)).mean() > 0.97
    same_geometry(inputs)


@row("1 to 200 slices (one slice included)")
def test_slices(inputs):
    from coded_fixtures import coded_scan

    made = {n: coded_scan(slices=n, thickness=4.0 if n < 9 else 0.8) for n in (1, 2, 120, 200)}
    for number, scan in made.items():
        inputs.save(f"s{number}.nii", scan.image, affine=scan.affine)
    inputs.segmented()
    for number, scan in made.items():
        np.testing.assert_array_equal(inputs.codes(f"s{number}"), scan.label)


@row("4-D with one time point")
def test_one_time_point(inputs):
    inputs.save(array=inputs.scan.image[..., None])
    inputs.segmented()
    assert inputs.mask().shape == inputs.scan.label.shape
    np.testing.assert_array_equal(inputs.mask().affine, inputs.scan.affine)
    same_geometry(inputs)


@row("4-D with several time points, RGB, complex")
def test_several_values(inputs):
    image = inputs.scan.image
    colours = np.clip(image, 0, 255).astype(np.uint8).repeat(3).view([("R", "u1"), ("G", "u1"), ("B", "u1")])
    for array, words in ((np.stack([image, image], axis=-1), "4-D"), (image.astype(np.complex64), "complex"),
                         (colours.reshape(image.shape), "colours")):  # fmt: skip
        inputs.save(array=array)
        assert words in inputs.refused()


@row("sform and qform agree within 1e-3, or only one is set (code > 0)")
def test_agreeing_forms(inputs):
    def nearly(header):
        header["qoffset_x"] += 5e-4

    def only_sform(header):
        header["qform_code"] = 0

    def only_qform(header):
        header["sform_code"] = 0

    for name, change in (("nearly", nearly), ("sform", only_sform), ("qform", only_qform)):
        inputs.save(f"{name}.nii", change=change)
    inputs.segmented()
    for name in ("nearly", "sform", "qform"):
        np.testing.assert_array_equal(inputs.codes(name), inputs.scan.label)
        same_geometry(inputs, name)
        assert not inputs.warnings(name)


@row("sform and qform disagree")
def test_disagreeing_forms(inputs):
    def change(header):
        header["qoffset_x"] += 5

    inputs.save(change=change)
    inputs.segmented()
    assert "disagree" in inputs.warnings()
    np.testing.assert_allclose(inputs.mask().affine, inputs.scan.affine)
    l5 = next(s for s in inputs.record()["Structures"] if s["name"] == "L5")
    centre = np.argwhere(inputs.scan.label == 2).mean(axis=0)
    np.testing.assert_allclose(l5["centroid_mm"], nib.affines.apply_affine(inputs.scan.affine, centre), atol=1e-4)
    same_geometry(inputs)


@row("neither is set, or spacing 0, negative or not finite")
def test_no_geometry(inputs):
    def unset(header):
        header["sform_code"] = header["qform_code"] = 0

    def spacing(value):
        def change(header):
            header["pixdim"][2] = value
            header["sform_code"] = 0

        return change

    upright = np.ascontiguousarray(inputs.scan.image[::-1, ::-1])  # what is assumed are the axes R, A, S
    for change in (unset, spacing(0), spacing(-1), spacing(np.nan), spacing(np.inf)):
        inputs.save(array=upright, change=change)
        assert "--assume-spacing" in inputs.refused()
    inputs.save(array=upright, change=unset)
    inputs.segmented(inputs.folder, "--assume-spacing", "4,2,2")
    np.testing.assert_array_equal(inputs.codes(), inputs.scan.label[::-1, ::-1])
    assert "assumed" in inputs.warnings()


@row("affine singular, or axes sheared by more than 5 degrees")
def test_no_axes(inputs):
    def singular(header):
        header["srow_z"][:3] = header["srow_y"][:3]

    def sheared(header):
        header["srow_y"][2] = 0.5

    for change, words in ((singular, "singular"), (sheared, "sheared by 14.0 degrees")):
        inputs.save(change=change)
        assert words in inputs.refused()


@row("isotropic volume, no slice axis to see")
def test_isotropic(inputs):
    from coded_fixtures import coded_scan

    scan = coded_scan(slices=8, thickness=2.0)
    inputs.save(array=scan.image.transpose(1, 2, 0), affine=scan.affine[:, [1, 2, 0, 3]])
    inputs.segmented()
    np.testing.assert_array_equal(inputs.codes(), scan.label.transpose(1, 2, 0))
    assert not inputs.warnings()


@row("slice axis by the affine is not left-right (an axial or coronal acquisition)")
def test_axial(inputs):
    from coded_fixtures import coded_scan

    scan = coded_scan(slices=8, thickness=2.0)
    inputs.save("axial.nii", scan.image[..., ::2], affine=scan.affine @ np.diag([1, 1, 2, 1]))
    inputs.save("coronal.nii", scan.image[:, ::2], affine=scan.affine @ np.diag([1, 2, 1, 1]))
    inputs.segmented()
    for name in ("axial", "coronal"):
        assert "not left-right" in inputs.warnings(name) and inputs.codes(name).any()
        same_geometry(inputs, name)


@row("NaN or infinite in some voxels")
def test_some_not_finite(inputs):
    array = inputs.scan.image.astype(np.float32)
    array[0, :3, 0] = [np.nan, np.inf, -np.inf]
    inputs.save(array=array)
    inputs.segmented()
    assert "3 voxels" in inputs.warnings() and "minimum" in inputs.warnings()
    np.testing.assert_array_equal(inputs.codes(), inputs.scan.label)


@row("all NaN, constant, or empty")
def test_nothing_to_see(inputs):
    def no_voxels(header):
        header["dim"][2] = 0

    shape = inputs.scan.image.shape
    for array, change, words in (
        (np.full(shape, np.nan, np.float32), None, "no finite voxel"), (np.full(shape, 7, np.int16), None, "constant"),
        (None, no_voxels, "dimensions"),
    ):  # fmt: skip
        inputs.save(array=array, change=change)
        assert words in inputs.refused()


@row("intensities of any range, negative too")
def test_any_range(inputs):
    image = inputs.scan.image.astype(np.float64)
    for name, array in (("negative", image - 5000), ("tiny", image * 1e-6), ("huge", image * 1e9 + 1e10)):
        inputs.save(f"{name}.nii.gz", array.astype(np.float32))
    inputs.segmented()
    for name in ("negative", "tiny"):
        np.testing.assert_array_equal(inputs.codes(name), inputs.scan.label)
    assert (inputs.codes("huge") == inputs.scan.label).mean() > 0.99  # float32 holds 1e12 to six digits


@row("truncated or corrupt gzip, empty file, text with a .nii.gz name, missing file, no permission")
def test_damaged_files(inputs):
    whole = inputs.save().read_bytes()
    corrupt = bytearray(whole)
    corrupt[len(whole) // 2 :: 7] = bytes(len(corrupt[len(whole) // 2 :: 7]))
    for content, words in (
        (whole[: len(whole) // 2], "damaged gzip"), (bytes(corrupt), "damaged gzip"), (b"", "an empty file"),
        (gzip.compress(gzip.decompress(whole)[:5000]), "truncated"),
        (b"not an image, but a text that is longer than any header could be. " * 20, "no NIfTI magic number"),
        (gzip.compress(b"text " * 200), "no NIfTI magic number"),
    ):  # fmt: skip
        (inputs.folder / "s.nii.gz").write_bytes(content)
        assert words in inputs.refused()


@row("truncated or corrupt gzip, empty file, text with a .nii.gz name, missing file, no permission")
def test_files_out_of_reach(inputs, monkeypatch):
    good = inputs.save()
    listed = inputs.folder / "list.json"
    listed.write_text(json.dumps({"test": [{"image": "gone.nii.gz"}, {"image": "s.nii.gz"}]}))
    assert "no such file" in inputs.refused(listed)  # found missing when it is read
    result = inputs.segment(inputs.folder / "gone.nii.gz", good)
    assert result.exit_code == 1 and "no such file" in inputs.rows("failures.csv")[0]["reason"]
    assert [r["status"] for r in inputs.rows("scans.csv")] == ["failed", "kept"]

    locked, read = inputs.save("locked.nii.gz"), Path.read_bytes

    def refuse(path):
        if path == locked:  # a file's mode says nothing to root
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "no permission" in inputs.refused()


@row("folder search")
def test_folder_search(inputs):
    label = inputs.scan.label
    inputs.save()
    for name in ("s_dseg.nii.gz", "s_mask.nii.gz", "Segmentation.nii.gz"):
        inputs.save(name, label)
    inputs.save("truth.nii.gz", label)
    inputs.save("truth_float.nii.gz", label.astype(np.float32))
    result = inputs.segment()
    assert result.exit_code == 0 and len(inputs.rows("scans.csv")) == 1
    assert result.output.count("its name says label map") == 3 and result.output.count("whole numbers, few") == 2
    assert sorted(p.name for p in inputs.out.glob("*.nii.gz")) == ["s_dseg.nii.gz"]


@row("hidden folders and files (a dot in front)")
def test_hidden_files(inputs):
    for name in ("s.nii.gz", ".partial-s.nii.gz", ".trash/a.nii.gz", ".git/annex/b.nii.gz"):
        inputs.save(name)
    inputs.segmented()
    assert [line["scan"] for line in inputs.rows("scans.csv")] == ["s"]
    assert [scan.image.name for scan in find_scans(inputs.folder).scans] == ["s.nii.gz"]


@row("links that lead to no file (DataLad before `datalad get`)")
def test_links_to_nothing(inputs):
    inputs.save()
    (inputs.folder / "t.nii.gz").symlink_to(".git/annex/objects/t.nii.gz")
    result = inputs.segment()
    assert result.exit_code == 1 and [line["scan"] for line in inputs.rows("failures.csv")] == ["t"]
    (told,) = find_scans(inputs.folder).warnings
    assert "1 links lead to no file" in told and "t.nii.gz" in told


@row("two inputs of one name")
def test_one_name_twice(inputs):
    for folder, shift in (("a", 0), ("b", 1)):
        inputs.save(f"{folder}/s.nii.gz", np.roll(inputs.scan.image, shift, axis=2))
    for given, names in (
        ((inputs.folder,), ("a/s", "b/s")), ((inputs.folder / "a", inputs.folder / "b/s.nii.gz"), ("a/s", "b/s")),
    ):  # fmt: skip
        inputs.segmented(*given, "--overwrite")
        for name, shift in zip(names, (0, 1), strict=True):
            assert np.array_equal(inputs.codes(name), inputs.scan.label) == (shift == 0)
    inputs.save("a/s.nii")
    result = inputs.segment()  # s.nii beside s.nii.gz
    assert result.exit_code == 1 and "one file for each" in inputs.rows("failures.csv")[0]["reason"]


@row("output exists and is ours (its sidecar says so)")
def test_ours_is_kept(inputs):
    inputs.save()
    inputs.segmented()
    stamp = (inputs.out / "s_dseg.nii.gz").stat().st_mtime_ns
    assert "0 segmented, 1 kept" in inputs.segment().output
    assert (inputs.out / "s_dseg.nii.gz").stat().st_mtime_ns == stamp
    assert "1 segmented, 0 kept" in inputs.segment(inputs.folder, "--overwrite").output
    assert (inputs.out / "s_dseg.nii.gz").stat().st_mtime_ns > stamp


@row("output exists, is ours, and a person corrected, accepted or marked it (`cps4 relabel`)")
def test_what_a_person_corrected_is_kept(inputs):
    from cps4_monai.inference.corrections import Correction
    from cps4_monai.inference.relabel import relabel

    inputs.save()
    inputs.segmented()
    label = inputs.out / "s_dseg.nii.gz"
    relabel(label, Correction(shift=1, by="Dr X"))
    corrected = label.read_bytes()
    result = inputs.segment(inputs.folder, "--overwrite")
    assert result.exit_code == 0 and "0 segmented, 1 kept" in result.output and label.read_bytes() == corrected
    assert (
        "1 kept: corrected by Dr X; " in result.output
        and "delete the label map" in inputs.rows("scans.csv")[0]["warnings"]
    )
    label.unlink()
    assert "1 segmented, 0 kept" in inputs.segment().output and "Review" not in inputs.record()


@row("output path holds a file that we did not make")
def test_foreign_files_stay(inputs):
    inputs.save()
    inputs.out.mkdir()
    for more in ((), ("--overwrite",)):
        (inputs.out / "s_dseg.nii.gz").write_bytes(b"by hand")
        assert "never overwritten" in inputs.refused(inputs.folder, *more)
        assert (inputs.out / "s_dseg.nii.gz").read_bytes() == b"by hand"


def test_every_row_of_the_page_has_its_check():
    cells = [line.split("|")[1].strip() for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    rows = [cell for cell in cells if cell != "input" and not re.fullmatch("-+", cell)]
    checked = set()
    for path in sorted(Path(__file__).parent.glob("test_inputs_page*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        marks = [mark for one in vars(module).values() for mark in getattr(one, "pytestmark", ())]
        checked |= {mark.args[0] for mark in marks if mark.name == "row"}
    assert sorted(checked) == sorted(rows)
