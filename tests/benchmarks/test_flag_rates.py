"""Rates of flags: which codes the labels lack is said by the caller."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "flag_rates.py"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Results and labels of one scan: L5 is found, of the sacrum (code 1) a half."""
    label = np.zeros((2, 8, 16), np.uint8)
    label[:, :, :8], label[:, :, 8:] = 1, 2
    found = label.copy()
    found[:, :4, :8] = 0
    for folder, codes in (("out", found), ("labels", label)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(codes, np.diag([4.0, 1.0, 1.0, 1.0])), tmp_path / folder / "a.nii.gz")
    record = {"Flags": [], "Structures": []}
    (tmp_path / "out" / "a.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path / "out", tmp_path / "labels"


@pytest.mark.parametrize(
    ("options", "dice"), [([], "1.000"), (["--unannotated", "1"], "1.000"), (["--unannotated"], "0.833")]
)
def test_the_sacrum_counts_where_the_labels_have_it(folders: tuple[Path, Path], options: list, dice: str) -> None:
    results, labels = map(str, folders)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), results, "--labels", labels, *options], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"1 scans: 1 right (mean Dice (b) {dice})"), done.stdout
