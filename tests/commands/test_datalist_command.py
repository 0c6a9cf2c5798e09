"""`cps4 datalist`."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from click.testing import CliRunner

from cps4_monai.commands.datalist import datalist
from cps4_monai.data.datalist import load_datalist


def make_scans(folder: Path) -> None:
    for k in range(5):
        voxels = np.random.default_rng(k).integers(0, 99, (2, 4, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"p{k}_T2w.nii.gz")
        nib.save(nib.Nifti1Image((voxels % 9 + 2).astype(np.uint8), np.eye(4)), folder / f"p{k}_dseg.nii.gz")


def test_writes_a_datalist_and_warns_of_classes_that_cannot_be_learned(tmp_path: Path) -> None:
    make_scans(tmp_path)
    out = tmp_path / "datalist.json"
    arguments = [
        str(tmp_path),
        "-o",
        str(out),
        "--labeled-share",
        "50",
        "--val",
        "1",
        "--test",
        "1",
        "--unannotated",
        "1",
    ]
    result = CliRunner().invoke(datalist, arguments)
    assert result.exit_code == 0, result.output
    assert "2 labeled, 1 unlabeled, 1 validation, 1 test" in result.output
    (told,) = [line for line in result.output.splitlines() if "11 (L5/S)" in line]
    assert "classes 11 (L5/S), 12 (L4/L5), " in told and " 1 (S)" not in told
    assert "they cannot be learned" in told and "nobody outlined is to be named by --unannotated" in told
    assert load_datalist(out, labeled_share=50).unannotated == (1,)


def test_a_share_and_a_number_of_labeled_patients_are_not_given_together(tmp_path: Path) -> None:
    given = [str(tmp_path), "-o", str(tmp_path / "d.json"), "--labeled", "2", "--labeled-share", "50"]
    result = CliRunner().invoke(datalist, given)
    assert result.exit_code == 2 and "--labeled and --labeled-share say the same" in result.output


def test_a_folder_without_scans_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(datalist, [str(tmp_path), "-o", str(tmp_path / "d.json")])
    assert result.exit_code == 1 and "no scan found" in result.output
