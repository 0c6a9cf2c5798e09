from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.data.datalist import Entry, load_datalist
from cps4_monai.data.in_plane import InPlane
from cps4_monai.evaluation.folder import evaluate_cases
from cps4_monai.evaluation.matching import match_entries
from cps4_monai.evaluation.trivial_baseline import write_mean_label_maps


def _entry(folder, name, label, affine):
    image = np.random.default_rng(0).normal(size=label.shape).astype(np.float32)
    for suffix, array in (("T2w", image), ("dseg", label)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}_{suffix}.nii.gz")
    return Entry(folder / f"{name}_T2w.nii.gz", folder / f"{name}_dseg.nii.gz", name)


def test_one_labeled_subject_predicts_itself_on_its_own_grid(tmp_path):
    label = np.zeros((4, 32, 48), np.uint8)
    label[:, 8:20, 8:18] = 2
    affine = np.diag([4.0, -1.0, 1.0, 1.0])
    entry = _entry(tmp_path, "sub-1", label, affine)
    (path,) = write_mean_label_maps([entry], [entry], InPlane((48, 32), 1.0), tmp_path / "pred", 20)
    written = nib.load(path)
    assert np.array_equal(np.asarray(written.dataobj), label) and np.allclose(written.affine, affine)


def test_grid_without_a_size_and_no_label_are_errors(tmp_path):
    with pytest.raises(ValueError, match="size is None"):
        write_mean_label_maps([], [], InPlane(), tmp_path, 20)
    with pytest.raises(ValueError, match="at least one labeled subject"):
        write_mean_label_maps([], [], InPlane((8, 8), 1.0), tmp_path, 20)


def test_real_subjects_cannot_be_segmented_without_looking(spider_dir, tmp_path):
    datalist = load_datalist(spider_dir / "splits.json", labeled_share=25)
    targets = datalist.validation
    write_mean_label_maps(datalist.labeled, targets, InPlane((160, 96), 1.875), tmp_path, 20)
    matching = match_entries(tmp_path, [(e.image, e.label, e.subject) for e in targets])
    evaluation = evaluate_cases(matching, unannotated=datalist.unannotated, resamples=100)
    assert len(evaluation.cases) == len(targets)
    assert evaluation.overall("dice_b")["mean"] < 0.5
