"""`cps4 evaluate`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from cps4_monai.commands.evaluate import evaluate


def test_segments_scores_and_reports_the_test_subjects(tiny_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tiny_run), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"report: {tmp_path / 'out' / 'report.html'}\n")
    assert len(list((tmp_path / "out" / "predictions").glob("*.nii.gz"))) == 2
    assert {"structures.csv", "cases.csv", "summary.csv", "report.html", "config.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_another_section_of_another_datalist(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_run), "--datalist", str(tiny_data / "datalist.json"), "--section", "validation"]
    result = CliRunner().invoke(evaluate, [*arguments, "-o", str(tmp_path), "--set", "report_title=Mine"])
    assert result.exit_code == 0, result.output
    assert "<title>Mine" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(tmp_path)])
    assert (
        result.exit_code == 1
        and result.output.startswith("Error: ")
        and "output folder of `cps4 train`" in result.output
    )
