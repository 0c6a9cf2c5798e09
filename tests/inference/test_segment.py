from __future__ import annotations

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cps4_monai import Segmenter, segment
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.data.volume import read_volume


def test_labels_are_those_of_the_scan_on_its_own_grid(segmenter, make_scan):
    scan = make_scan()
    result = segmenter(scan.nifti())
    assert result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.labels, scan.label)
    np.testing.assert_array_equal(result.affine, scan.affine)
    voxel_ml = 4.0 * 2.0 * 2.0 / 1000
    assert result.volumes_ml["L5"] == pytest.approx(np.sum(scan.label == 2) * voxel_ml)


def test_structures_say_present_cut_absent_or_not_trained(segmenter, make_scan):
    result = segmenter(make_scan().nifti())
    states = {s.name: s.state for s in result.structures}
    assert states["S"] == "not_trained" and states["L5"] == "present" and states["T9"] == "absent"
    top = max(s.code for s in result.structures if s.kind == "vertebra" and s.volume_ml)
    assert {s.code: s for s in result.structures}[top].cut_at == ("superior",)
    l5 = next(s for s in result.structures if s.name == "L5")
    where = np.argwhere(make_scan().label == 2).mean(axis=0)
    np.testing.assert_allclose(l5.centroid_voxels, where, atol=1e-6)
    np.testing.assert_allclose(l5.centroid_mm, nib.affines.apply_affine(make_scan().affine, where), atol=1e-6)
    assert l5.confidence > 0.9 and result.levels["margin"] > 1 and result.levels["anchored"]
    assert [flag.name for flag in result.flags] == ["cut_structure"]


def test_anisotropic_pixels_come_back_where_they_were(segmenter, make_scan):
    scan = make_scan()
    fine = np.repeat(np.repeat(scan.image, 2, axis=1), 3, axis=2)
    truth = np.repeat(np.repeat(scan.label, 2, axis=1), 3, axis=2)
    affine = scan.affine @ np.diag([1, 1 / 2, 1 / 3, 1])
    result = segmenter(nib.Nifti1Image(fine, affine), qc=False)
    assert result.labels.shape == fine.shape
    for code in (2, 3, 4):  # at borders the grey values mix, which in this bundle are the classes
        inside = ndimage.binary_erosion(truth == code, np.ones((1, 9, 13)))
        assert inside.any() and (result.labels[inside] == code).all()


def test_120_thin_slices_and_a_single_one(segmenter, make_scan):
    thin = make_scan(slices=120, thickness=0.8)
    np.testing.assert_array_equal(segmenter(thin.nifti(), qc=False).labels, thin.label)
    single = make_scan(slices=1)
    result = segmenter(single.nifti())
    np.testing.assert_array_equal(result.labels, single.label)
    assert "partial_width" in {flag.name for flag in result.flags}
    assert result.qc_picture().startswith(b"\x89PNG")


def test_two_dimensional_nifti_is_one_slice(segmenter, make_scan):
    scan = make_scan(slices=1)
    image = nib.Nifti1Image(scan.image[0][..., None], scan.affine[:, [1, 2, 0, 3]])
    result = segmenter(image, qc=False)
    np.testing.assert_array_equal(result.labels[..., 0], scan.label[0])


def test_raw_leaves_islands_that_decoding_removes(bundle_dir, make_scan):
    scan = make_scan()
    scan.image[2, 2:4, 80:82] = scan.image[2, 15, 20]  # an island of L5 far from the spine
    assert Segmenter(bundle_dir, device="cpu", raw=True)(scan.nifti(), qc=False).labels[2, 2, 80] == 2
    decoded = Segmenter(bundle_dir, device="cpu")(scan.nifti(), qc=False)
    np.testing.assert_array_equal(decoded.labels, scan.label)


def test_a_wrongly_named_vertebra_is_renamed_without_moving_its_border(bundle_dir, make_scan):
    from cps4_monai.inference.segment import Segmenter as Plain

    scan = make_scan()
    original = scan.label.copy()
    wrong = scan.label == 4  # L3 painted mostly as a second L4: order and the lower half tell
    values = {code: int(np.median(scan.image[scan.label == code])) for code in (3, 4)}
    scan.image[wrong & (np.arange(96) % 3 > 0)] = values[3] + 2
    result = Plain(bundle_dir, device="cpu")(scan.nifti(), qc=False)
    np.testing.assert_array_equal(result.labels, original)


def test_test_time_augmentation_and_batch_size_change_little_and_nothing(bundle_dir, make_scan):
    scan = make_scan()
    reference = Segmenter(bundle_dir, device="cpu", batch_size=1)(scan.nifti(), qc=False).labels
    np.testing.assert_array_equal(reference, scan.label)
    averaged = Segmenter(bundle_dir, device="cpu", tta=True)(scan.nifti(), qc=False)
    assert averaged.labels.shape == scan.label.shape and averaged.record["Settings"]["TestTimeAugmentation"]


def test_the_bundle_says_in_which_precision_torch_computes(edited_bundle, bundle_dir, make_scan):
    folder = edited_bundle()
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**content, "amp": True, "amp_dtype": "bfloat16"}), encoding="utf-8")
    reduced = Segmenter(folder, device="cpu")
    seen = []
    reduced.load().register_forward_hook(lambda module, args, output: seen.append(torch.is_autocast_enabled("cpu")))
    reduced(make_scan().nifti(), qc=False)
    assert seen and all(seen) and reduced.settings["Precision"] == "bfloat16"
    assert "Precision" not in Segmenter(bundle_dir, device="cpu").settings, "results made before stay as they are"
    config.write_text(json.dumps({**content, "amp": "$True"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"inference\.json has amp '\$True'"):
        Segmenter(folder, device="cpu")


def test_a_result_of_no_use_by_the_plans_calibration_gets_one_flag(edited_bundle, make_scan, monkeypatch):
    always = {"failure": {"intercept": 3.0, "weights": {"kept": 0.5}}, "failure_limit": 0.6}
    segmenter = Segmenter(edited_bundle(flags=always), device="cpu")
    result = segmenter(make_scan().nifti(), qc=False)
    assert [flag.name for flag in result.flags] == ["unusual_contrast"] and "97 %" in result.flags[0].detail
    assert result.record["Traits"]["kept"] == 1.0 and result.labels.any()
    assert result.volumes_ml == {} and any(s.volume_ml > 0 for s in result.structures), "names mean nothing"
    pictures = []
    monkeypatch.setattr("cps4_monai.report.pictures.sagittal_mosaic", lambda *a, **k: pictures.append(k) or b"")
    segmenter(make_scan().nifti()).qc_picture()
    assert pictures[0]["alarms"] == ["unusual_contrast"], "without names, then"
    assert segmenter.settings["FlagCalibration"]["failure_limit"] == 0.6
    segmenter.raw = True
    raw = segmenter(make_scan().nifti(), qc=False)
    assert raw.volumes_ml and "unusual_contrast" not in {flag.name for flag in raw.flags}, "never asked of it"
    assert raw.record["Traits"] is None


def test_segment_writes_three_files_when_asked(bundle_dir, make_scan, tmp_path):
    scan = make_scan()
    path = scan.save(tmp_path / "in" / "sub-1_T2w.nii.gz")
    before = sorted(tmp_path.rglob("*"))
    result = segment(path, weights=bundle_dir, device="cpu")
    assert sorted(tmp_path.rglob("*")) == before  # without an output folder nothing is written
    result = segment(str(path), tmp_path / "out", weights=bundle_dir, device="cpu")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "sub-1_T2w_dseg.json",
        "sub-1_T2w_dseg.nii.gz",
        "sub-1_T2w_qc.png",
    ]
    written = read_volume(tmp_path / "out/sub-1_T2w_dseg.nii.gz", is_label=True)
    np.testing.assert_array_equal(written.array, result.labels)
    record = json.loads((tmp_path / "out/sub-1_T2w_dseg.json").read_text())
    assert record["Sources"] == [str(path)] and record["Device"] == "cpu"
    assert len(record["Weights"]["Sha256"]) == 64 and {"cps4_monai", "torch", "monai"} <= set(record["Software"])
    assert {s["name"]: s["state"] for s in record["Structures"]}["S"] == "not_trained"
    assert all(seconds >= 0 for seconds in record["Seconds"].values())
    with pytest.raises(ValueError, match="is there already"):
        result.save(tmp_path / "out")
    result.save(tmp_path / "out", overwrite=True)


def test_a_file_in_place_of_the_output_folder_is_refused_before_the_scan_is_read(bundle_dir, make_scan, tmp_path):
    scan = make_scan()
    path = scan.save(tmp_path / "scan.nii.gz")
    with pytest.raises(ValueError, match=r"output_dir .*scan.nii.gz' cannot be written"):
        segment(tmp_path / "no scan.nii.gz", path, weights=bundle_dir, device="cpu")
    with pytest.raises(ValueError, match=r"output_dir .*scan.nii.gz' cannot be written"):
        segment(path, weights=bundle_dir, device="cpu").save(path)


@pytest.mark.parametrize(
    ("spacing", "recorded"),
    [
        (np.array([4, 2, 2]), [4, 2, 2]),
        (np.float32(2), [2]),
        (3, [3]),
        ([3.0], [3]),
        ((3, 3, 3), [3]),
        ((4, 2, 2.5), [4, 2, 2.5]),
    ],
)
def test_an_assumed_spacing_in_any_form_is_recorded_alike(bundle_dir, make_scan, tmp_path, spacing, recorded):
    result = segment(make_scan().nifti(), tmp_path, weights=bundle_dir, device="cpu", assume_spacing=spacing)
    (record,) = tmp_path.glob("*_dseg.json")
    assert json.loads(record.read_text())["Settings"]["AssumeSpacing"] == recorded
    assert result.record["Settings"]["AssumeSpacing"] == recorded


def test_versions_of_packages_are_read_once(segmenter, make_scan, monkeypatch):
    before = segmenter(make_scan().nifti(), qc=False).record["Software"]
    monkeypatch.setattr("importlib.metadata.version", lambda name: pytest.fail(f"version of {name} read again"))
    assert segmenter(make_scan().nifti(), qc=False).record["Software"] == before


def test_a_crop_of_the_network_leaves_background_outside_and_cuts_at_its_own_border(edited_bundle, make_scan):
    segmenter = Segmenter(edited_bundle(), device="cpu")
    segmenter.bundle.__dict__["in_plane"] = InPlane((60, 32), 2.0)
    result = segmenter(make_scan().nifti(), qc=False)
    rows = np.flatnonzero(result.labels.any(axis=(0, 1)))
    assert rows.min() >= 18 and rows.max() < 78
    assert any("inferior" in s.cut_at for s in result.structures)


def test_a_field_of_view_of_metres_is_a_wrong_spacing(segmenter, make_scan):
    scan = make_scan()
    with pytest.raises(InvalidVolumeError, match=r"field of view of .* correct the spacing"):
        segmenter(nib.Nifti1Image(scan.image, scan.affine @ np.diag([1, 50, 50, 1])))


def test_a_field_of_view_without_two_vertebrae_is_told(segmenter, make_scan):
    scan = make_scan()
    metres = segmenter(nib.Nifti1Image(scan.image, np.diag([1e-3, 1e-3, 1e-3, 1]) @ scan.affine), qc=False)
    assert any("in millimetres?" in warning for warning in metres.warnings)
    assert not segmenter(scan.nifti(), qc=False).warnings


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"device": "tpu"}, "expected auto, cpu"),
        ({"batch_size": 0}, "expected 1 or more slices"),
        ({"device": "cuda:99"}, "CUDA GPUs"),
        ({"assume_spacing": np.array([4, 0, 2])}, "one or three positive numbers"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(bundle_dir, settings_, words):
    with pytest.raises(ValueError, match=words):
        Segmenter(bundle_dir, **settings_)


DTYPES = ("<i2", ">i2", "u1", "<f4", ">f8", "<i4", "<u2")
ODD = (0.0, -1.0, 1e-3, 3000.0, 1e30, float("nan"), float("inf"))
CORRUPTIONS = ("pixdim", "codes", "srow", "quatern_b", "scaling", "vox_offset", "magic", "truncated", "not finite",
               "any byte", "compressed")  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_volume_and_header_gives_a_mask_or_a_clear_error(segmenter, tmp_path_factory, data):
    draw, odd = data.draw, st.sampled_from(ODD)
    shape = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)) + draw(st.sampled_from([[], [1], [2]]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    array = np.random.default_rng(draw(st.integers(0, 2**31))).integers(0, 200, shape).astype(dtype)
    header = nib.Nifti1Header(endianness=dtype.byteorder if dtype.byteorder in "<>" else "<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"], header["sform_code"] = b"n+1", 352, draw(st.integers(0, 2))
    header["pixdim"][1:4] = draw(st.lists(st.floats(0.3, 6), min_size=3, max_size=3))
    matrix = np.diag(header["pixdim"][1:4])[draw(st.permutations(range(3)))]
    for row, values in zip(("srow_x", "srow_y", "srow_z"), matrix, strict=True):
        header[row][:3] = values * draw(st.sampled_from([-1, 1]))
    header["qform_code"] = draw(st.integers(0, 2))
    corrupted = draw(st.sets(st.sampled_from(CORRUPTIONS), max_size=2))
    if "pixdim" in corrupted:
        header["pixdim"][draw(st.integers(0, 3))] = draw(odd)
    if "codes" in corrupted:
        header["sform_code"], header["qform_code"] = draw(st.integers(-1, 99)), draw(st.integers(-1, 99))
    if "srow" in corrupted:
        header[draw(st.sampled_from(["srow_x", "srow_y", "srow_z"]))][draw(st.integers(0, 3))] = draw(odd)
    if "quatern_b" in corrupted:
        header["quatern_b"] = draw(odd)
    if "scaling" in corrupted:
        header["scl_slope"], header["scl_inter"] = draw(odd), draw(odd)
    if "vox_offset" in corrupted:
        header["vox_offset"] = draw(odd)
    if "magic" in corrupted:
        header["magic"] = draw(st.sampled_from([b"ni1", b"abc"]))
    if "not finite" in corrupted and dtype.kind == "f":
        array.flat[:: draw(st.integers(1, 5))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    content = header.binaryblock + b"\0" * 4 + array.tobytes(order="F")
    if "truncated" in corrupted:
        content = content[: draw(st.integers(0, len(content)))]
    if "compressed" in corrupted:
        content = gzip.compress(content, 1)
    if "any byte" in corrupted:
        content = bytearray(content)
        for place, value in draw(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), max_size=8)):
            content[place % max(1, len(content)) : place % max(1, len(content)) + 1] = bytes([value])
    path = tmp_path_factory.mktemp("random") / "scan.nii"
    path.write_bytes(content)
    try:
        result = segmenter(path, qc=False)
    except InvalidVolumeError as error:
        event("error")
        assert str(path) in str(error) and "expected" in str(error) and "Fix: " in str(error)
    else:
        event("mask")
        assert "any byte" in corrupted or result.labels.shape == tuple((*shape, 1, 1)[:3])
        assert result.labels.dtype == np.uint8 and result.labels.max() < 20
