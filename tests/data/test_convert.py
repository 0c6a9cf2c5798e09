"""Conversion of made-up MRSpineSeg and SPIDER trees."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.data.build_datalist import build_datalist
from cps4_monai.data.convert import convert_mrspineseg, convert_spider
from cps4_monai.data.convert.spider import spider_codes
from cps4_monai.data.convert.vertebral_bodies import NoCanalError, keep_bodies
from cps4_monai.data.datalist import DatalistError
from cps4_monai.data.volume import read_volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def image(seed: int = 0, shape: tuple[int, ...] = (3, 6, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)


def mask(*values: int, dtype: type = np.uint8) -> np.ndarray:
    array = np.zeros((3, 6, 7), dtype)
    array.ravel()[: len(values)] = values
    return array


def write_mha(path: Path, array: np.ndarray, spacing: tuple = (4.0, 0.6, 0.5), origin: tuple = (1.0, 2.0, 3.0)) -> Path:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the extra 'dicom'")
    volume = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    volume.SetSpacing(spacing)
    volume.SetOrigin(origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume, str(path))
    return path


def test_mrspineseg_pairs_are_found_in_several_folders_and_copied_unchanged(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "out"
    first = save(source / "train" / "MR" / "Case1.nii.gz", image())
    save(source / "train" / "Mask" / "mask_case1.nii.gz", mask(1, 2, 19))
    save(source / "test" / "Case12.nii.gz", image(1))
    result = convert_mrspineseg(source, out)
    assert [(s.subject, s.labeled, s.classes) for s in result.scans] == [
        ("sub-001", True, (1, 2, 19)),
        ("sub-012", False, ()),
    ]
    assert (out / "sub-001_T2w.nii.gz").read_bytes() == first.read_bytes()
    assert sorted(p.name for p in out.iterdir()) == [
        "conversion.csv",
        "sub-001_T2w.nii.gz",
        "sub-001_dseg.nii.gz",
        "sub-012_T2w.nii.gz",
    ]
    assert len(build_datalist(out, out / "datalist.json", val=0, test=0).unlabeled) == 1


def test_mrspineseg_endings_in_capitals_are_read(tmp_path: Path) -> None:
    save(tmp_path / "src" / "a.nii.gz", image()).rename(tmp_path / "src" / "CASE1.NII.GZ")
    save(tmp_path / "src" / "b.nii.gz", mask(2)).rename(tmp_path / "src" / "Mask_Case1.NII.GZ")
    (converted,) = convert_mrspineseg(tmp_path / "src", tmp_path / "out").scans
    assert converted.labeled and converted.classes == (2,)
    assert sorted(p.name for p in (tmp_path / "out").glob("sub*")) == ["sub-001_T2w.nii.gz", "sub-001_dseg.nii.gz"]


def test_mrspineseg_reports_bad_pairs_and_goes_on(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "out"
    for k, codes in ((1, (2,)), (2, (40,)), (3, (2,))):
        save(source / f"Case{k}.nii.gz", image(k))
        save(source / f"mask_case{k}.nii.gz", mask(*codes))
    save(source / "mask_case3.nii.gz", mask(2)[:2])
    save(source / "mask_case9.nii.gz", mask(2))
    result = convert_mrspineseg(source, out)
    assert [s.subject for s in result.scans] == ["sub-001"]
    reasons = {path.name: reason for path, reason in result.failed}
    assert "40" in reasons["Case2.nii.gz"] and "(2, 6, 7)" in reasons["Case3.nii.gz"]
    assert reasons["mask_case9.nii.gz"] == "a mask without its image"
    assert not (out / "sub-002_T2w.nii.gz").exists()
    assert "a mask without its image" in (out / "conversion.csv").read_text()


def test_mrspineseg_refuses_empty_trees_duplicates_and_existing_outputs(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match="no file Case<number>"):
        convert_mrspineseg(tmp_path, tmp_path / "out")
    save(tmp_path / "a" / "Case1.nii.gz", image())
    convert_mrspineseg(tmp_path / "a", tmp_path / "out")
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert_mrspineseg(tmp_path / "a", tmp_path / "out")
    convert_mrspineseg(tmp_path / "a", tmp_path / "out", overwrite=True)
    save(tmp_path / "a" / "copy" / "Case1.nii", image())
    with pytest.raises(DatalistError, match="a second file of case 1"):
        convert_mrspineseg(tmp_path / "a", tmp_path / "out2")


def test_mrspineseg_overwritten_leaves_no_label_map_of_the_scan_before(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "out"
    for k in (1, 2):
        save(source / f"Case{k}.nii.gz", image(k))
        save(source / f"mask_case{k}.nii.gz", mask(2))
    convert_mrspineseg(source, out)
    (source / "mask_case1.nii.gz").unlink()  # withdrawn
    (source / "Case2.nii.gz").unlink()
    save(source / "Case2.nii", image(5))  # another ending: the one of before would be a second scan
    with pytest.raises(FileExistsError, match=r"one of 4 files that would be replaced.*--overwrite"):
        convert_mrspineseg(source, out)
    convert_mrspineseg(source, out, overwrite=True)
    names = ["sub-001_T2w.nii.gz", "sub-002_T2w.nii", "sub-002_dseg.nii.gz"]
    assert sorted(p.name for p in out.glob("sub*")) == names


def test_spider_overwritten_leaves_no_label_map_of_the_scan_before(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "out"
    for number in (1, 2):
        write_mha(source / "images" / f"{number}_t2.mha", image(number))
        write_mha(source / "masks" / f"{number}_t2.mha", mask(1, dtype=np.uint16))
    convert_spider(source, out)
    (source / "masks" / "1_t2.mha").unlink()
    write_mha(source / "masks" / "2_t2.mha", mask(1, dtype=np.uint16)[:1])  # another grid: fails
    result = convert_spider(source, out, overwrite=True)
    assert [path.name for path, _ in result.failed] == ["2_t2.mha"]
    assert [p.name for p in out.glob("sub*")] == ["sub-001_T2w.nii.gz"]


def test_spider_codes_follow_the_table() -> None:
    source = np.array([0, 1, 5, 9, 101, 104, 100, 201, 205, 209])
    label, dropped = spider_codes(source)
    assert label.tolist() == [0, 2, 6, 10, 2, 5, 0, 11, 15, 19] and label.dtype == np.uint8
    assert dropped == {}


def test_spider_codes_above_t9_become_background_and_are_counted() -> None:
    label, dropped = spider_codes(np.array([10, 10, 11, 110, 210, 210, 210, 200, 99, 1]))
    assert label.tolist() == [0] * 9 + [2]
    assert dropped == {10: 2, 11: 1, 110: 1, 210: 3, 200: 1, 99: 1}


def test_spider_codes_refuse_interpolated_masks() -> None:
    with pytest.raises(ValueError, match="not whole numbers"):
        spider_codes(np.array([0.0, 1.5]))


def test_spider_tree_is_converted_in_place_and_code(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "out"
    write_mha(source / "images" / "1_t2.mha", image(1))
    write_mha(source / "masks" / "1_t2.mha", mask(1, 100, 201, 12, 101, dtype=np.uint16))
    write_mha(source / "images" / "1_t1.mha", image(2))
    write_mha(source / "images" / "23_t2.mha", image(3))
    result = convert_spider(source, out)
    assert [(s.subject, s.labeled, s.classes, s.dropped) for s in result.scans] == [
        ("sub-001", True, (2, 11), {12: 1}),
        ("sub-023", False, (), {}),
    ]
    scan, label = read_volume(out / "sub-001_T2w.nii.gz"), read_volume(out / "sub-001_dseg.nii.gz", is_label=True)
    np.testing.assert_array_equal(scan.array, image(1))
    np.testing.assert_allclose(scan.affine, LPS_TO_RAS @ [[4, 0, 0, 1], [0, 0.6, 0, 2], [0, 0, 0.5, 3], [0, 0, 0, 1]])
    assert label.array.ravel()[:5].tolist() == [2, 0, 11, 0, 2]
    np.testing.assert_allclose(label.affine, scan.affine)
    assert "12:1" in (out / "conversion.csv").read_text()


def test_spider_contrasts_do_not_share_a_folder(tmp_path: Path) -> None:
    for contrast in ("t1", "t2"):
        write_mha(tmp_path / "images" / f"1_{contrast}.mha", image(1))
        write_mha(tmp_path / "masks" / f"1_{contrast}.mha", mask(1, dtype=np.uint16))
    convert_spider(tmp_path, tmp_path / "out")
    before = (tmp_path / "out" / "sub-001_dseg.nii.gz").read_bytes()
    with pytest.raises(FileExistsError, match=r"found 1 T2w scans of these patients, e.g. sub-001_T2w.nii.gz"):
        convert_spider(tmp_path, tmp_path / "out", sequence="t1", overwrite=True)
    assert (tmp_path / "out" / "sub-001_dseg.nii.gz").read_bytes() == before
    assert not (tmp_path / "out" / "sub-001_T1w.nii.gz").exists()
    convert_spider(tmp_path, tmp_path / "out", overwrite=True)


def test_spider_central_slice_at_half_the_resolution(tmp_path: Path) -> None:
    scan, codes = image(1), mask()
    codes[2, 1, 1], codes[2, 2:4, 2:4] = 100, 1  # canal in the last slice, L5 in one block of it
    write_mha(tmp_path / "images" / "1_t2.mha", scan)
    write_mha(tmp_path / "masks" / "1_t2.mha", codes)
    (converted,) = convert_spider(tmp_path, tmp_path / "out", central_mm=0, half=True).scans
    result = read_volume(tmp_path / "out" / "sub-001_T2w.nii.gz")
    label = read_volume(tmp_path / "out" / "sub-001_dseg.nii.gz", is_label=True)
    assert result.array.shape == label.array.shape == (1, 3, 3) and converted.classes == (2,)
    np.testing.assert_array_equal(result.array[0, 1, 1], np.round(scan[2, 2:4, 2:4].mean()))
    assert np.argwhere(label.array == 2).tolist() == [[0, 1, 1]]
    first_block = LPS_TO_RAS @ [1 + 2 * 4.0, 2 + 0.3, 3 + 0.25, 1]
    np.testing.assert_allclose(result.affine @ [0, 0, 0, 1], first_block, atol=1e-6)
    with pytest.raises(ValueError, match="central_mm is -1"):
        convert_spider(tmp_path, tmp_path / "out", central_mm=-1)


def test_spider_scan_with_a_mask_of_another_grid_fails_alone(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for k, origin in ((1, (1.0, 2.0, 3.0)), (2, (1.0, 2.0, 9.0))):
        write_mha(source / "images" / f"{k}_t2.mha", image(k))
        write_mha(source / "masks" / f"{k}_t2.mha", mask(1), origin=origin)
    result = convert_spider(source, tmp_path / "out")
    assert [s.subject for s in result.scans] == ["sub-001"]
    assert "expected one grid" in result.failed[0][1]


def test_spider_without_simpleitk_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1_t2.mha").touch()
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ImportError, match=r"cps4-monai\[dicom\]"):
        convert_spider(tmp_path, tmp_path / "out")


def test_spider_refuses_unknown_sequences_and_trees_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        convert_spider(tmp_path, tmp_path / "out", sequence="flair")
    with pytest.raises(DatalistError, match=r"no images/<number>_t2_SPACE\.mha"):
        convert_spider(tmp_path, tmp_path / "out", sequence="t2_SPACE")


def spine_with_arch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Body (y 2 to 7), canal (8 to 10) and spinous process (11 to 14) of one vertebra in R, P, I order, leaning."""
    body, canal, arch = (np.zeros((5, 30, 24), bool) for _ in range(3))
    for z in range(24):
        lean = z // 3
        canal[1:4, 8 + lean : 11 + lean, z] = True
        if 6 <= z < 18:
            body[:, 2 + lean : 8 + lean, z] = True
            arch[:, 8 + lean : 15 + lean, z] = ~canal[:, 8 + lean : 15 + lean, z]
    return body, canal, arch


@pytest.mark.parametrize("codes", [("R", "P", "I"), ("L", "A", "S"), ("I", "L", "P"), ("S", "P", "R")])
def test_bodies_are_kept_and_arches_cut_in_any_orientation(codes: tuple[str, str, str]) -> None:
    body, canal, arch = spine_with_arch()
    label = np.where(body | arch, 5, 0).astype(np.uint8)
    label[0, 0, 0] = 14
    rpi = nib.orientations.axcodes2ornt(("R", "P", "I"))
    to = nib.orientations.ornt_transform(rpi, nib.orientations.axcodes2ornt(codes))
    turned = nib.orientations.apply_orientation(label, to)
    affine = np.diag([4.0, -1.0, -1.0, 1.0]) @ nib.orientations.inv_ornt_aff(to, label.shape)
    assert nib.orientations.aff2axcodes(affine) == codes
    kept = keep_bodies(turned, nib.orientations.apply_orientation(canal, to), affine)
    back = nib.orientations.apply_orientation(
        kept, nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(codes), rpi)
    )
    np.testing.assert_array_equal(back == 5, body)
    assert back[0, 0, 0] == 14


def test_the_wall_goes_on_straight_beyond_the_canals_ends() -> None:
    body, canal, arch = spine_with_arch()
    canal[..., 15:] = False
    kept = keep_bodies(np.where(body | arch, 5, 0).astype(np.uint8), canal, np.diag([4.0, -1.0, -1.0, 1.0]))
    overlap = 2 * ((kept == 5) & body).sum() / ((kept == 5).sum() + body.sum())
    assert overlap > 0.97


def test_without_a_canal_bodies_cannot_be_told_apart(tmp_path: Path) -> None:
    label = mask(2)
    with pytest.raises(NoCanalError, match="value 100"):
        keep_bodies(label, np.zeros(label.shape, bool), np.eye(4))
