"""`cps4 phantom`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from cps4_monai.commands.phantom import phantom


def test_makes_a_data_set_and_says_where(tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = CliRunner().invoke(
        phantom,
        [
            str(out),
            "--subjects",
            "6",
            "--seed",
            "2",
            "--labeled",
            "2",
            "--val",
            "1",
            "--test",
            "1",
            "--in-plane",
            "24",
            "--slices",
            "2",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "6 subjects: 2 labeled, 2 unlabeled, 1 validation, 1 test" in result.output
    assert len(list(out.glob("*_T2w.nii.gz"))) == 6 and str(out / "datalist.json") in result.output


def test_more_subjects_asked_for_than_there_are_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        phantom, [str(tmp_path / "x"), "--subjects", "2", "--val", "1", "--test", "1", "--in-plane", "16"]
    )
    assert result.exit_code == 1 and "only 2 patients have labels" in result.output
