"""How scans are scored by the benchmarks, and the check of contrasts on a phantom with the released weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cps4_monai.anatomy import MRSPINESEG

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import contrast_check
    import scored_scans

    return SimpleNamespace(check=contrast_check, scans=scored_scans)


def stacked(*codes: int) -> np.ndarray:
    label = np.zeros((1, 10 * len(codes), 20), dtype=np.uint8)
    for row, code in enumerate(codes):
        label[0, 10 * row : 10 * row + 8, 5:15] = code
    return label


def test_missed_and_shifted_structures_make_a_scan_wrong_from_two_on(benchmarks: SimpleNamespace) -> None:
    segmenter = SimpleNamespace(bundle=SimpleNamespace(anatomy=MRSPINESEG, unannotated=(1,)))
    truth = stacked(4, 13, 3, 12, 2, 11, 1)
    scan = benchmarks.scans.LabeledScan("set", "a", np.zeros(truth.shape, np.float32), truth, (4.0, 1.0, 1.0), ())
    right = benchmarks.scans.score(segmenter, scan, truth)
    assert right["dice_b"] == right["dice_disc"] == 1.0 and right["labeled"] == 6  # the sacrum is not counted
    assert right["right"] and (right["shifted"], right["missed"]) == (0, 0)
    missed = benchmarks.scans.score(segmenter, scan, stacked(4, 13, 0, 12, 2, 11, 0))
    assert missed["missed"] == 1 and missed["right"] and missed["dice"][3] == 0.0
    assert missed["dice_vertebra"] == pytest.approx(2 / 3)
    partly = np.where(truth == 4, 255, truth).astype(np.uint8)  # nobody annotated L3
    rest = benchmarks.scans.score(segmenter, scan.changed(scan.image, partly), truth)
    assert rest["labeled"] == 5 and rest["dice_b"] == 1.0 and rest["right"]
    up = benchmarks.scans.score(segmenter, scan, stacked(5, 14, 4, 13, 3, 12, 2))
    assert up["shifted"] == 6 and not up["right"]


def test_test_subjects_are_refused(benchmarks: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="test subjects choose nothing"):
        next(benchmarks.scans.labeled_scans(tmp_path / "datalist.json", "test", 20))


def test_the_check_scores_each_rendering_of_validation_scans_and_draws_them(
    benchmarks: SimpleNamespace, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    shutil.copytree(tiny_data, tmp_path / "phantom")
    command = ["x", "--datalist", str(tmp_path / "phantom" / "datalist.json"), "--limit", "1", "--sheet-scans", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "-o", str(tmp_path / "a.csv"), "--sheet", str(tmp_path / "a.png")])
    benchmarks.check.main()
    rows = pd.read_csv(tmp_path / "a.csv")
    assert rows.groupby(["contrast", "way"]).size().to_dict() == {
        (contrast, way): 1 for contrast in ("as it is", "inverted", "bright discs") for way in ("decoded", "argmax")
    }
    assert rows["dice_b"].between(0, 1).all() and rows["subject"].nunique() == 1
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "| phantom | bright discs | decoded |" in capsys.readouterr().out
