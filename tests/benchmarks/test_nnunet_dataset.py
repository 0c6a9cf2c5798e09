"""The data set of nnU-Net: right patients, numbers without gaps and back, 255 ignored, the scan's grid."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.data.labeled_subsets import read_json, rotated_subset
from cps4_monai.data.volume import read_volume
from cps4_monai.evaluation.matching import match_entries

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import nnunet_dataset as script

FINE = 8  # pixels of each step below
SHAPE = (7 * FINE, 2, 9 * FINE)  # W, D, H: anterior to posterior, right to left, inferior to superior
# The first voxel axis runs front to back, the second left to right: not the order of the slices.
AFFINE = np.array([[0, -4.0, 0, 3], [-0.8, 0, 0, 2], [0, 0, 0.6, -5], [0, 0, 0, 1]])


def codes(last=0) -> np.ndarray:
    """L5, the disc L4/L5 and L4, numbered 2, 12 and 3, at places of their own in each slice."""
    label = np.zeros((7, 2, 9), np.uint8)
    label[1:4, :, 1:3], label[1:4, :, 3:5], label[1:4, 1, 5:8] = 2, 12, 3
    label[:, :, 8] = last
    return label.repeat(FINE, axis=0).repeat(FINE, axis=2)


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Four training patients, of whom one at a time is labeled at 25 %; two to validate, one to test."""
    rng = np.random.default_rng(0)
    names = [f"sub-{number:03d}" for number in range(7)]
    for name in names:
        last = NOT_ANNOTATED if name == "sub-001" else 0
        image = codes() * 20 + rng.integers(0, 9, SHAPE)
        nib.save(nib.Nifti1Image(image.astype(np.int16), AFFINE), tmp_path / f"{name}_T1w.nii.gz")
        nib.save(nib.Nifti1Image(codes(last), AFFINE), tmp_path / f"{name}_dseg.nii.gz")
    entries = [{"subject": n, "image": f"{n}_T1w.nii.gz", "label": f"{n}_dseg.nii.gz"} for n in names]
    content = {"name": "small", "subsets": {"25": ["sub-002"]}}
    content |= {"training": entries[:4], "validation": entries[4:6], "test": entries[6:]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path / "datalist.json"


def written(datalist: Path, share="100", seed=0, sections=("validation",)) -> Path:
    folder = datalist.parent / "raw" / "Dataset501_small"
    script.write_dataset(script.chosen(datalist, None, share, seed), folder, sections, source=datalist)
    return folder


def content(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def cases(folder: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in folder.glob("*.nii.gz"))


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_the_split_names_the_patients_of_a_studys_cell(datalist: Path, seed: int) -> None:
    folder = written(datalist, "25", seed)
    (split,) = json.loads((folder / "splits_final.json").read_text())
    turned = rotated_subset(read_json(datalist), datalist, "25", seed)
    assert split["train"] == [f"{name}_T1w" for name in turned]
    assert split["val"] == ["sub-004_T1w", "sub-005_T1w"]
    assert cases(folder / "labelsTr") == sorted([*split["train"], *split["val"]])
    assert cases(folder / "imagesTr") == [f"{case}_0000" for case in cases(folder / "labelsTr")]
    assert content(folder)["numTraining"] == 3


def test_numbers_have_no_gaps_and_255_is_ignored_where_it_occurs(datalist: Path) -> None:
    folder = written(datalist)
    labels = {"background": 0, "L5": 1, "L4": 2, "L4/L5": 3, "ignore": 4}
    assert content(folder)["labels"] == labels
    numbers = np.asarray(nib.load(folder / "labelsTr" / "sub-001_T1w.nii.gz").dataobj)
    assert np.unique(numbers).tolist() == [0, 1, 2, 3, 4]
    assert (numbers == 4).sum() == (codes(NOT_ANNOTATED) == NOT_ANNOTATED).sum()
    assert script.codes_of(labels).tolist() == [0, 2, 3, 12, NOT_ANNOTATED]
    assert "ignore" not in content(written(datalist, "25"))["labels"]  # nobody of these has it


def test_files_are_sagittal_slices_of_the_scans_own_pixels(datalist: Path) -> None:
    folder = written(datalist)
    image = nib.load(folder / "imagesTr" / "sub-000_T1w_0000.nii.gz")
    assert image.shape == (56, 72, 2) and np.allclose(image.header.get_zooms(), (0.8, 0.6, 4.0))
    label = np.asarray(nib.load(folder / "labelsTr" / "sub-000_T1w.nii.gz").dataobj)
    # anterior to posterior, superior to inferior, left to right: L4 is in one slice, above L5
    assert [np.argwhere(label == number).min(axis=0).tolist() for number in (1, 2)] == [[8, 48, 0], [8, 8, 0]]
    source = np.asarray(nib.load(datalist.parent / "sub-000_T1w.nii.gz").dataobj)
    assert sorted(np.asarray(image.dataobj).ravel()) == sorted(source.ravel())
    values = np.asarray(image.dataobj)[label == 3]
    assert np.sort(values).tolist() == np.sort(source[codes() == 12]).tolist()


def test_predictions_come_back_on_the_scans_grid_and_are_found_by_the_report(datalist: Path, tmp_path: Path) -> None:
    folder = written(datalist, "25")
    data = script.chosen(datalist, None, "100", 0)
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    case = "sub-004_T1w"
    (predicted / f"{case}.nii.gz").write_bytes((folder / "labelsTr" / f"{case}.nii.gz").read_bytes())
    assert script.back(data, folder, predicted, tmp_path / "out") == 1
    made = read_volume(tmp_path / "out" / "argmax" / f"{case}_dseg.nii.gz", is_label=True)
    assert np.array_equal(made.array, codes()) and np.allclose(made.affine, AFFINE)
    matching = match_entries(tmp_path / "out" / "argmax", [(e.image, e.label, e.patient) for e in data.validation])
    assert [case.pred is not None for case in matching.cases] == [True, False]


def test_saved_probabilities_are_decoded(datalist: Path, tmp_path: Path) -> None:
    """Both bodies called L5 by argmax, with a doubt: the upper one becomes L4."""
    folder = written(datalist, "25")
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    case = "sub-004_T1w"
    truth = np.asarray(nib.load(folder / "labelsTr" / f"{case}.nii.gz").dataobj)
    called = np.where(truth == 2, 1, truth).astype(np.uint8)
    scores = np.full((4, *called.T.shape), 0.02, np.float32)
    np.put_along_axis(scores, called.T[None].astype(np.int64), 0.94, axis=0)
    scores[:, truth.T == 2] = np.array([[0.02], [0.5], [0.46], [0.02]])
    nib.save(nib.Nifti1Image(called, np.diag([0.8, 0.6, 4.0, 1.0])), predicted / f"{case}.nii.gz")
    np.savez(predicted / f"{case}.npz", probabilities=scores)
    script.back(script.chosen(datalist, None, "100", 0), folder, predicted, tmp_path / "out")
    argmax, decoded = (
        read_volume(tmp_path / "out" / way / f"{case}_dseg.nii.gz", is_label=True).array
        for way in ("argmax", "decoded")
    )
    assert 3 not in argmax and np.array_equal(decoded, codes())


def test_test_patients_are_images_alone(datalist: Path) -> None:
    (datalist.parent / "sub-006_dseg.nii.gz").write_bytes(b"not to be read")
    folder = written(datalist, "25", sections=("validation", "test"))
    assert cases(folder / "images_test") == ["sub-006_T1w_0000"]
    assert cases(folder / "images_validation") == ["sub-004_T1w_0000", "sub-005_T1w_0000"]
    assert not [case for case in cases(folder / "labelsTr") if "006" in case]


def test_thin_slices_are_stated_as_the_thickest_axis_and_come_back_as_they_were(datalist: Path, tmp_path: Path) -> None:
    """nnU-Net takes the axis of the largest spacing, and would cut slices of 0.5 mm in other planes."""
    thin = AFFINE * np.array([1, 0.125, 1, 1])
    for path in datalist.parent.glob("*.nii.gz"):
        voxels = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(voxels, thin), path)
    folder = written(datalist, "25")
    label = folder / "labelsTr" / "sub-004_T1w.nii.gz"
    for path in (label, folder / "imagesTr" / "sub-004_T1w_0000.nii.gz"):
        assert np.allclose(nib.load(path).header.get_zooms(), (0.8, 0.6, 0.808))
    script.back(script.chosen(datalist, None, "100", 0), folder, label.parent, tmp_path / "out")
    made = read_volume(tmp_path / "out" / "argmax" / "sub-004_T1w_dseg.nii.gz", is_label=True)
    assert np.array_equal(made.array, codes()) and np.allclose(made.affine, thin)


def test_strange_predictions_are_named(datalist: Path, tmp_path: Path) -> None:
    folder = written(datalist, "25")
    data = script.chosen(datalist, None, "100", 0)
    with pytest.raises(ValueError, match="no prediction"):
        script.back(data, folder, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="sub-004_T1w_0000"):
        script.back(data, folder, folder / "images_validation", tmp_path / "out")
