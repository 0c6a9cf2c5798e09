"""Scans in and label maps out, through the transforms of the bundle and through MONAI's own loader."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, LoadImaged, SaveImaged

from cps4_monai.data.label_ownership import ForeignFileError, source_entries
from cps4_monai.data.volume import InvalidVolumeError
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.corrections import Correction
from cps4_monai.inference.relabel import relabel
from cps4_monai.transforms.volume_io import LoadVolumed, RestoreLabelsd, SaveLabelsd, ToSagittalSlicesd

AFFINE = np.array([[0, 0, -4.0, 8], [1, 0, 0, -20], [0, -1, 0, 12], [0, 0, 0, 1.0]])


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scans" / "a" / "Rücken 1_T2w.nii.gz"
    path.parent.mkdir(parents=True)
    array = np.random.default_rng(0).normal(size=(24, 20, 3)).astype(np.float32)
    array[:, :10] += 20  # the superior half is bright
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def scores(image, threshold=0.5):
    return torch.cat([threshold - image, image - threshold])


LOADERS = [lambda: LoadVolumed("image"), lambda: LoadImaged("image", ensure_channel_first=True)]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_label_map_comes_back_on_the_scans_own_grid(scan, loader):
    data = Compose([loader(), ToSagittalSlicesd("image", spacing_mm=1.0, size=(32, 40))])({"image": str(scan)})
    image = data["image"]
    assert image.shape == (1, 3, 32, 40) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    pred = RestoreLabelsd()({**data, "pred": scores(image)})["pred"]
    assert isinstance(pred, MetaTensor) and pred.shape == (1, 24, 20, 3) and pred.dtype == torch.uint8
    np.testing.assert_allclose(pred.affine, AFFINE)
    np.testing.assert_array_equal(pred[0].numpy()[:, :10] == 1, True)
    assert pred[0, :, 10:].sum() == 0
    codes = RestoreLabelsd()({**data, "pred": (image > 0.5).float()})["pred"]
    assert torch.equal(codes.as_tensor(), pred.as_tensor())


def test_the_networks_affine_puts_pixels_where_the_scan_does(scan):
    data = Compose([LoadVolumed("image"), ToSagittalSlicesd("image", spacing_mm=2.0, size=(16, 20))])({"image": scan})
    centre = np.array([1, 7.5, 9.5, 1])  # the middle of the slices is the middle of the scan
    np.testing.assert_allclose(data["image"].affine.numpy() @ centre, AFFINE @ [11.5, 9.5, 1, 1])


def test_it_survives_collating_and_decollating(scan, tmp_path):
    pre = Compose([LoadVolumed("image"), ToSagittalSlicesd("image", spacing_mm=1.0, size=(32, 40))])
    batch = next(iter(DataLoader(Dataset([{"image": str(scan)}], pre), batch_size=1)))
    batch["pred"] = torch.cat([0.5 - batch["image"], batch["image"] - 0.5], dim=1)
    post = Compose([RestoreLabelsd(), SaveLabelsd(output_dir=tmp_path / "out")])
    (out,) = [post(one) for one in decollate_batch(batch)]
    saved = nib.load(tmp_path / "out" / "Rücken 1_T2w_dseg.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), out["pred"][0].numpy())
    source = nib.load(scan)
    assert saved.header["sform_code"] == source.header["sform_code"] and saved.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(saved.affine, source.affine)


def save(scan, folder, value=1, **settings):
    label = MetaTensor(
        torch.full((1, 24, 20, 3), value, dtype=torch.uint8),
        affine=torch.from_numpy(AFFINE),
        meta={"filename_or_obj": str(scan)},
    )
    return SaveLabelsd(output_dir=folder, **settings)({"pred": label})


def test_ours_is_kept_or_replaced_and_foreign_files_survive(scan, tmp_path, monkeypatch):
    target = tmp_path / "Rücken 1_T2w_dseg.nii.gz"

    def value():
        return np.asarray(nib.load(target).dataobj).max()

    save(scan, tmp_path, 1)
    save(scan, tmp_path, 2)
    assert value() == 1
    save(scan, tmp_path, 2, overwrite=True)
    assert value() == 2
    record = json.loads((tmp_path / "Rücken 1_T2w_dseg.json").read_text(encoding="utf-8"))
    assert record["GeneratedBy"][0]["Name"] == "cps4_monai" and record["Sources"] == [str(scan)]
    monkeypatch.chdir(scan.parent)
    assert source_entries(scan.name) == source_entries(scan), "the sidecar is read from other folders"
    nib.save(nib.Nifti1Image(np.full((24, 20, 3), 9, np.uint8), AFFINE), target)  # corrected by hand: no longer ours
    for overwrite in (False, True):
        with pytest.raises(ForeignFileError, match="never overwritten"):
            save(scan, tmp_path, 3, overwrite=overwrite)
    assert value() == 9


def test_a_label_map_of_the_scan_that_lay_there_before_is_not_kept_for_another(scan, tmp_path):
    save(scan, tmp_path)
    nib.save(nib.Nifti1Image(np.ones((24, 20, 3), np.int16), AFFINE), scan)  # a second visit, on the same grid
    with pytest.raises(ForeignFileError, match=r"another scan than .* is now"):
        save(scan, tmp_path, 2)
    save(scan, tmp_path, 2, overwrite=True)
    save(scan, tmp_path, 3)
    (target,) = tmp_path.glob("*_dseg.nii.gz")
    assert np.asarray(nib.load(target).dataobj).max() == 2


def test_a_label_map_of_other_weights_is_kept_with_a_warning(scan, tmp_path, caplog):
    for name in ("one.pt", "other.pt"):
        (tmp_path / name).write_text(name)
    save(scan, tmp_path, weights=tmp_path / "one.pt")
    record = json.loads((tmp_path / "Rücken 1_T2w_dseg.json").read_text(encoding="utf-8"))
    assert record["Weights"] == {"Name": "one.pt", "Sha256": file_sha256(tmp_path / "one.pt")}
    save(scan, tmp_path, 2, weights=tmp_path / "one.pt")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    save(scan, tmp_path, 2, weights=tmp_path / "other.pt")
    assert "kept, though not made with" in caplog.text and "other.pt" in caplog.text


def test_a_label_map_that_a_person_accepted_is_kept(scan, tmp_path):
    target = tmp_path / "Rücken 1_T2w_dseg.nii.gz"
    save(scan, tmp_path, 1)
    relabel(target, Correction(accepted=True))
    before = target.read_bytes()
    save(scan, tmp_path, 2, overwrite=True)
    assert target.read_bytes() == before
    with pytest.raises(ForeignFileError, match=r"no answer of these weights to be scored\. Fix: evaluate into another"):
        save(scan, tmp_path, 2, overwrite=True, keep_reviewed=False)
    assert target.read_bytes() == before
    target.unlink()
    save(scan, tmp_path, 2)
    assert np.asarray(nib.load(target).dataobj).max() == 2


def test_subfolders_are_mirrored_and_no_file_serves_two_scans(scan, tmp_path):
    other = scan.parents[1] / "b" / scan.name
    other.parent.mkdir()
    other.write_bytes(scan.read_bytes())
    root = scan.parents[1]
    for one in (scan, other):
        save(one, tmp_path / "out", data_root_dir=root)
    assert len(list((tmp_path / "out").glob("*/*_dseg.nii.gz"))) == 2
    saver = SaveLabelsd(output_dir=tmp_path / "flat")
    label = MetaTensor(torch.zeros(1, 24, 20, 3), affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": str(scan)})
    saver({"pred": label})
    label.meta["filename_or_obj"] = str(other)
    with pytest.raises(ForeignFileError, match="both"):
        saver({"pred": label})


def test_monai_label_recognises_what_saves_and_gets_the_scans_shape(scan):
    assert isinstance(SaveLabelsd(), SaveImaged)
    data = Compose([LoadVolumed("image"), ToSagittalSlicesd("image", spacing_mm=1.0)])({"image": scan})
    assert list(data["image"].meta["spatial_shape"]) == [24, 20, 3]
    np.testing.assert_allclose(data["image"].meta["original_affine"], AFFINE)


def test_bad_input_is_named(scan, tmp_path):
    with pytest.raises(InvalidVolumeError, match="no such file"):
        LoadVolumed("image")({"image": tmp_path / "none.nii"})
    with pytest.raises(ValueError, match="LoadVolumed"):
        ToSagittalSlicesd("image")({"image": torch.zeros(1, 3, 4, 5)})
    with pytest.raises(ValueError, match="ToSagittalSlicesd"):
        RestoreLabelsd()({"image": torch.zeros(1, 3, 4, 5), "pred": torch.zeros(2, 3, 4, 5)})
    with pytest.raises(ValueError, match="RestoreLabelsd"):
        SaveLabelsd(output_dir=tmp_path)({"pred": torch.zeros(1, 3, 4, 5)})
    constant = MetaTensor(torch.ones(1, 3, 4, 5), affine=torch.eye(4), meta={"filename_or_obj": "x.nii"})
    with pytest.raises(InvalidVolumeError, match=r"x\.nii.*constant"):
        ToSagittalSlicesd("image")({"image": constant})
