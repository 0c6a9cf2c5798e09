"""`cps4 convert`."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai.commands.convert import convert


def save(path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def test_mrspineseg_reports_what_it_did(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    save(source / "Case1.nii.gz", voxels)
    save(source / "mask_case1.nii.gz", (voxels % 20).astype(np.uint8))
    save(source / "Case2.nii.gz", np.zeros((2, 3, 4), np.int16))
    result = CliRunner().invoke(convert, ["mrspineseg", str(source), str(tmp_path / "out")])
    assert result.exit_code == 1 and (tmp_path / "out").is_dir(), result.output  # one of two failed
    assert "1 scans, 1 with labels" in result.output and "failed:" in result.output
    again = CliRunner().invoke(convert, ["mrspineseg", str(source), str(tmp_path / "out")])
    assert again.exit_code == 1 and "--overwrite" in again.output


def test_spider_says_that_the_sacrum_is_not_annotated(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the extra 'dicom'")
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for folder, array in (("images", voxels), ("masks", np.where(voxels > 20, 12, 1).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / folder / "1_t2.mha"))
    result = CliRunner().invoke(convert, ["spider", str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "set to background: [12]" in result.output and "--unannotated 1" in result.output
    # No canal in that mask: bodies cannot be told from arches, and no scan is left.
    bare = CliRunner().invoke(convert, ["spider", str(tmp_path), str(tmp_path / "out2"), "--bodies-only"])
    assert bare.exit_code == 1 and "no scan could be converted" in bare.output
