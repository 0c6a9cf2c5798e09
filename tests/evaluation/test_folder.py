from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.data.label_ownership import assumed_spacing_of
from cps4_monai.data.volume import read_volume, write_label_volume
from cps4_monai.evaluation.case import evaluate_arrays, evaluate_case
from cps4_monai.evaluation.folder import Evaluation, evaluate_cases
from cps4_monai.evaluation.matching import match_folder
from cps4_monai.report.predictions import case_slab
from cps4_monai.transforms.volume_io import LoadVolumed, SaveLabelsd

AFFINE = np.diag([4.0, 0.5, 0.5, 1.0])


def _label(shape=(6, 24, 30)):
    label = np.zeros(shape, np.uint8)
    label[:, 4:12, 4:10] = 2
    label[:, 4:12, 10:13] = 12
    label[:, 4:12, 13:20] = 3
    return label


def _save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def _folders(tmp_path, predictions, affine=AFFINE):
    for name, pred in predictions.items():
        _save(tmp_path / "labels" / f"{name}_dseg.nii.gz", _label())
        if pred is not None:
            _save(tmp_path / "pred" / f"{name}_dseg.nii.gz", pred, affine)
    (tmp_path / "pred").mkdir(exist_ok=True)
    return match_folder(tmp_path / "pred", tmp_path / "labels")


def _evaluate(matching, **options):
    return evaluate_cases(matching, unannotated=[1], resamples=200, **options)


def test_states_and_values_of_one_case():
    pred = _label()
    pred[pred == 12] = 13
    rows = evaluate_arrays(pred, _label(), AFFINE, (4, 0.5, 0.5), MRSPINESEG, [1], case="a", subject="s").structures
    by_name = {row["name"]: row for row in rows}
    assert [by_name[n]["state"] for n in ("L5", "L4/L5", "L3/L4", "T9")] == ["ok", "missed", "false", "absent"]
    assert "S" not in by_name and len(rows) == 18
    assert by_name["L5"]["dice"] == 1 and by_name["L5"]["hd95_mm"] == 0
    assert by_name["L4/L5"]["dice"] == 0 and np.isnan(by_name["L4/L5"]["hd95_mm"])
    assert np.isnan(by_name["T9"]["dice"])


def test_summary_says_how_many_were_measured(tmp_path):
    missed = _label()
    missed[missed == 12] = 0
    evaluation = _evaluate(_folders(tmp_path, {"sub-1": _label(), "sub-2": missed}))
    table = evaluation.summary.set_index(["structure", "metric"])
    assert table.loc[("L4/L5", "dice"), "mean"] == pytest.approx(0.5) and table.loc[("L4/L5", "dice"), "n"] == 2
    assert table.loc[("L4/L5", "hd95_mm"), "n"] == 1
    assert evaluation.overall("dice_b")["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert evaluation.cases["num_missed"].tolist() == [0, 1]


def test_a_subject_may_be_called_like_a_missing_value(tmp_path):
    evaluation = _evaluate(_folders(tmp_path, {"NA": _label(), "null": np.roll(_label(), 1, axis=2)}))
    evaluation.save(tmp_path / "out")
    again = Evaluation.load(tmp_path / "out")
    for table in ("cases", "structures"):
        assert set(getattr(again, table)["subject"]) == {"NA", "null"} == set(getattr(evaluation, table)["subject"])


def test_two_scans_of_one_patient_are_one_draw(tmp_path):
    matching = _folders(tmp_path, {"sub-1_run-1": _label(), "sub-1_run-2": _label(), "sub-2": _label()})
    assert _evaluate(matching).overall("dice_b")["n"] == 2


def test_bad_case_is_recorded_and_the_rest_goes_on(tmp_path):
    matching = _folders(tmp_path, {"sub-1": _label(), "sub-2": _label()[:3], "sub-3": None, "sub-4": _label()})
    (tmp_path / "pred" / "sub-4_dseg.nii.gz").write_bytes(b"no gzip")
    evaluation = _evaluate(matching)
    assert evaluation.cases["case"].tolist() == ["sub-1"]
    reasons = evaluation.failures.set_index("case")["reason"]
    assert "shape" in reasons["sub-2"] and "no prediction" in reasons["sub-3"] and "sub-4" in reasons.index


def test_other_affine_is_recorded(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 1.0
    evaluation = _evaluate(_folders(tmp_path, {"sub-1": _label()}, moved))
    assert "affine" in evaluation.failures["reason"].iloc[0]


def test_number_of_jobs_changes_nothing(tmp_path):
    shifted = np.roll(_label(), 1, axis=1)
    matching = _folders(tmp_path, {"sub-1": shifted, "sub-2": _label(), "sub-3": shifted})
    one, three = _evaluate(matching, jobs=1), _evaluate(matching, jobs=3)
    assert one.structures.equals(three.structures) and one.summary.equals(three.summary)


def test_tables_survive_writing_and_reading(tmp_path):
    evaluation = _evaluate(_folders(tmp_path, {"sub-1": np.roll(_label(), 1, axis=2), "sub-2": _label()}))
    evaluation.save(tmp_path / "out")
    again = Evaluation.load(tmp_path / "out")
    assert again.summary["metric"].tolist() == evaluation.summary["metric"].tolist()
    np.testing.assert_allclose(again.summary["mean"], evaluation.summary["mean"], rtol=1e-5)
    assert again.overall("dice_b")["n"] == 2
    with pytest.raises(ValueError, match="not found"):
        Evaluation.load(tmp_path)


def test_structures_may_be_called_by_numbers(tmp_path):
    structures = [Structure(code, str(code), f"part {code}", "other" if code else "background") for code in range(20)]
    evaluation = evaluate_cases(_folders(tmp_path, {"s1": _label()}), Anatomy(structures), resamples=200)
    evaluation.save(tmp_path / "tables")
    loaded = Evaluation.load(tmp_path / "tables")
    assert set(loaded.structures["name"]) == {str(code) for code in range(1, 20)}
    assert {"2", "3", "12"} <= set(loaded.summary["structure"]) <= {"overall", *loaded.structures["name"]}


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_orientation_of_the_file_does_not_matter(axes):
    pred, label = np.roll(_label(), 1, axis=1), _label()
    first = evaluate_arrays(pred, label, AFFINE, (4, 0.5, 0.5), MRSPINESEG, case="a", subject="a").case
    affine = np.eye(4)
    affine[:3, :3] = AFFINE[:3, :3][:, axes]
    spacing = tuple(np.array((4, 0.5, 0.5))[list(axes)])
    turned = evaluate_arrays(
        pred.transpose(axes), label.transpose(axes), affine, spacing, MRSPINESEG, case="a", subject="a"
    ).case
    numeric = [key for key, value in first.items() if isinstance(value, float)]
    assert [turned[k] for k in numeric] == pytest.approx([first[k] for k in numeric])


def test_one_voxel_shift_of_a_real_label(spider_dir, tmp_path):
    path = spider_dir / "volumes" / "sub-005_dseg.nii.gz"
    label = read_volume(path, is_label=True)
    write_label_volume(tmp_path / "sub-005_pred.nii.gz", np.roll(label.array, 1, axis=1), label)
    case = evaluate_case(tmp_path / "sub-005_pred.nii.gz", path, MRSPINESEG, [1]).case
    assert 0.85 < case["dice_b"] < 0.99 and case["num_missed"] == case["num_false"] == 0
    assert case["hd95_mm"] == pytest.approx(label.spacing_mm[1], rel=0.05)
    assert 0 < case["assd_mm"] < label.spacing_mm[1]
    assert case["num_measured"] == case["num_labeled"]


def _without_geometry(path, array):
    made = nib.Nifti1Image(array, None)
    made.set_sform(None, 0)
    made.set_qform(None, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(made, path)
    return path


def test_scans_without_geometry_are_scored_with_the_spacing_their_prediction_was_made_with(tmp_path):
    codes = _label()
    moved = np.roll(codes, 2, axis=2)
    grey = np.arange(codes.size, dtype=np.int16).reshape(codes.shape)
    image = _without_geometry(tmp_path / "labels" / "sub-1_T2w.nii.gz", grey)
    label = _without_geometry(tmp_path / "labels" / "sub-1_dseg.nii.gz", codes)
    scan = LoadVolumed("image", assume_spacing=[4, 0.5, 0.5])({"image": image})["image"]
    SaveLabelsd(output_dir=tmp_path / "pred")({"pred": MetaTensor(torch.from_numpy(moved[None]), meta=scan.meta)})
    (case,) = match_folder(tmp_path / "pred", tmp_path / "labels").cases
    scored = evaluate_case(case.pred, case.label, MRSPINESEG, unannotated=[1])
    assert scored.case["hd95_mm"] == 1.0, "two voxels of 0.5 mm"
    assert case.label == label and case.image == image and case_slab(case).labels["label"].any()


def test_an_assumed_spacing_is_not_noted_for_a_header_that_has_one(tmp_path):
    _save(tmp_path / "sub-1_T2w.nii.gz", np.arange(72, dtype=np.int16).reshape(2, 6, 6))
    scan = LoadVolumed("image", assume_spacing=[9, 9, 9])({"image": tmp_path / "sub-1_T2w.nii.gz"})["image"]
    label = MetaTensor(torch.zeros(1, 2, 6, 6, dtype=torch.uint8), meta=scan.meta)
    SaveLabelsd(output_dir=tmp_path / "pred")({"pred": label})
    assert assumed_spacing_of(tmp_path / "pred" / "sub-1_T2w_dseg.nii.gz") is None
