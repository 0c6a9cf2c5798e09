"""What labels and data sets get: a check for each of their rows of the inputs page, under the row's own words."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai.commands.report import report
from cps4_monai.data.datalist import DatalistError, LeakError, load_datalist
from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.preflight import check_data

row = pytest.mark.row


@row("image and label: other shape, affines apart by more than 1e-3, or voxels by more than a quarter of one")
def test_label_on_another_grid(inputs, tmp_path):
    from cps4_monai.data.cache import SliceCache
    from cps4_monai.data.in_plane import InPlane

    scan, masks, moved = inputs.scan, tmp_path / "masks", inputs.scan.affine.copy()
    moved[0, 3] += 0.01
    masks.mkdir()
    inputs.save("a.nii.gz")
    for array, affine, words in (
        (scan.label[:-1], scan.affine, "the shape of its image"),
        (scan.label, moved, "apart"),
    ):
        nib.save(nib.Nifti1Image(array, affine), masks / "a_dseg.nii.gz")
        result = CliRunner().invoke(report, [str(masks), "-o", str(inputs.out), "--images", str(inputs.folder)])
        assert result.exit_code == 1 and words in inputs.rows("failures.csv")[0]["reason"]
        cache = SliceCache(tmp_path / "cache", InPlane(size=None, spacing_mm=2.0, mode="spacing"))
        with pytest.raises(InvalidVolumeError, match=words):  # in training
            cache.label(masks / "a_dseg.nii.gz", inputs.folder / "a.nii.gz")


@row("label values outside the table, not whole numbers")
def test_senseless_labels(inputs, tmp_path):
    masks, label = tmp_path / "masks", inputs.scan.label
    masks.mkdir()
    for array, words in (
        ((label + 30).astype(np.uint8), "outside the table: 30, "),
        (label * 0.5, "not whole numbers: 1.5, "),
    ):
        nib.save(nib.Nifti1Image(array, inputs.scan.affine), masks / "a_dseg.nii.gz")
        assert CliRunner().invoke(report, [str(masks), "-o", str(inputs.out)]).exit_code == 1
        assert words in inputs.rows("failures.csv")[0]["reason"]


@row("label map with 255 where nobody annotated")
def test_partly_annotated(inputs, tmp_path):
    masks, labels = tmp_path / "masks", tmp_path / "labels"
    marked = np.where(inputs.scan.label == inputs.scan.label.max(), 255, inputs.scan.label).astype(np.uint8)
    command = ["--predictions", str(masks), "--labels", str(labels), "-o", str(inputs.out)]
    for folder, array in ((masks, inputs.scan.label), (labels, marked)):
        folder.mkdir()
        nib.save(nib.Nifti1Image(array.astype(np.uint8), inputs.scan.affine), folder / "a_dseg.nii.gz")
    assert CliRunner().invoke(report, command).exit_code == 0
    case = inputs.rows("cases.csv")[0]
    assert (case["dice_b"], case["num_false"], case["num_missed"]) == ("1", "0", "0")
    for wrong, words in (((labels, np.full_like(marked, 255)), "255 everywhere"), ((masks, marked), "table: 255")):
        nib.save(nib.Nifti1Image(wrong[1], inputs.scan.affine), wrong[0] / "a_dseg.nii.gz")
        assert CliRunner().invoke(report, command).exit_code == 1 and words in inputs.rows("failures.csv")[0]["reason"]
        nib.save(nib.Nifti1Image(marked, inputs.scan.affine), labels / "a_dseg.nii.gz")


@row("classes listed as `unannotated` in the datalist")
def test_unannotated(inputs, tmp_path):
    import torch

    from cps4_monai.losses.semi_supervised import supervised_cross_entropy

    inputs.save()
    inputs.segmented()
    states = {r["name"]: r["state"] for r in inputs.rows("structures.csv")}
    assert states["S"] == "not_trained" and "not_trained" not in {v for k, v in states.items() if k != "S"}
    (tmp_path / "list.json").write_text(json.dumps({"unannotated": [1], "test": [{"image": "in/s.nii.gz"}]}))
    codes = load_datalist(tmp_path / "list.json").unannotated
    logits, label = torch.randn(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.long)
    other = logits.clone()
    other[:, 1] += 9.0
    torch.testing.assert_close(*(supervised_cross_entropy(x, label, unannotated=codes) for x in (logits, other)))


def entries(folder: Path, *subjects: str, label: bool = True, values: np.ndarray | None = None) -> list[dict[str, str]]:
    """Entries of a datalist, with their files."""
    made = []
    for number, subject in enumerate(subjects):
        array = np.arange(24, dtype=np.int16).reshape(2, 3, 4) + 100 * number if values is None else values
        codes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 19
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{subject}_T2w.nii.gz")
        nib.save(nib.Nifti1Image(codes, np.eye(4)), folder / f"{subject}_dseg.nii.gz")
        made.append({"image": f"{subject}_T2w.nii.gz", **({"label": f"{subject}_dseg.nii.gz"} if label else {})})
    return made


def listed(folder: Path, **content) -> Path:
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


@row("same patient or same voxels on two sides of train / val / test")
def test_leaks(tmp_path):
    sessions = listed(tmp_path, training=entries(tmp_path, "sub-1_ses-1"), test=entries(tmp_path, "sub-1_ses-2"))
    with pytest.raises(LeakError, match="same patient"):
        load_datalist(sessions)
    copied = listed(tmp_path, training=entries(tmp_path, "sub-1"), validation=entries(tmp_path, "sub-2"))
    with pytest.raises(LeakError, match="same image content"):
        check_data(load_datalist(copied))


@row("same patient labeled and unlabeled within train")
def test_both_labeled_and_unlabeled(tmp_path):
    pairs = [f"sub-{n}_ses-{s}" for n in (1, 2) for s in (1, 2)]
    training = [{k: v for k, v in e.items() if k == "image" or "ses-1" in v} for e in entries(tmp_path, *pairs)]
    warnings = check_data(load_datalist(listed(tmp_path, training=training)))
    assert [w for w in warnings if "both" in w] == [
        "2 patients are both labeled and unlabeled within training: sub-1, sub-2"
    ]


@row("a class that no labeled subject shows")
def test_class_never_shown(tmp_path):
    training = entries(tmp_path, "sub-1")  # its label map shows codes 0 to 18
    warnings = check_data(load_datalist(listed(tmp_path, training=training)))
    assert warnings == ("class 19 (T9/T10): no labeled subject shows it, so it cannot be learned",)


@row("no labeled subject; no unlabeled subject where the method uses them")
def test_nobody_to_learn_from(tmp_path):
    with pytest.raises(DatalistError, match="no labeled subject"):
        load_datalist(listed(tmp_path, training=entries(tmp_path, "sub-1", label=False)), require=("labeled",))
    labeled = listed(tmp_path, training=entries(tmp_path, "sub-1"))
    load_datalist(labeled, require=("labeled",))
    with pytest.raises(DatalistError, match="no unlabeled subject"):
        load_datalist(labeled, require=("labeled", "unlabeled"))
