from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.commands.report import report
from cps4_monai.metrics.run_log import RunLog
from cps4_monai.report.predictions import report_predictions


@pytest.fixture()
def data(tmp_path):
    """Two subjects with scan, label and prediction; the second prediction lacks a disc."""
    rng = np.random.default_rng(0)
    affine = np.diag([4.0, -1.0, 1.0, 1.0])
    for subject in ("sub-1", "sub-2"):
        label = np.zeros((4, 32, 48), np.uint8)
        label[:, 8:20, 8:18], label[:, 8:20, 18:22], label[:, 8:20, 22:32] = 2, 12, 3
        pred = label.copy()
        pred[pred == 12] = 12 if subject == "sub-1" else 0
        image = rng.normal(100, 10, label.shape).astype(np.float32)
        for folder, name, array in (("labels", "T2w", image), ("labels", "dseg", label), ("pred", "T2w_dseg", pred)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), tmp_path / folder / f"{subject}_{name}.nii.gz")
    return tmp_path


def _run(data, *more, labels="labels"):
    arguments = ["-p", str(data / "pred"), "-l", str(data / labels), "-o", str(data / "out"), *more]
    return CliRunner().invoke(report, arguments)


def test_folder_of_predictions_becomes_tables_and_a_page(data):
    log = RunLog(data / "metrics.csv")
    log.write("stage2", 0, 1, {"loss": 1.0, "dice_b": 0.2})
    result = _run(data, "--unannotated", "S", "--metrics", str(log.path), "--attribution", "Scans: made up.")
    assert result.exit_code == 0, result.output
    assert result.output.strip().endswith("report.html")
    page = (data / "out" / "report.html").read_text(encoding="utf-8")
    for words in ("Dice (a)", "Dice (b)", "Dice (c)", "L4/L5", "Missed structures", "sub-2 · Dice (b) 0.667", "made up",
                  "Learning curves", "never labeled: S", "data:image/webp"):  # fmt: skip
        assert words in page, words
    assert not re.search(r"""(?:src|href|action)=["']?https?:""", page)  # NiiVue's comments name addresses
    structures = pd.read_csv(data / "out" / "structures.csv")
    assert len(structures) == 2 * 18 and structures["state"].value_counts()["missed"] == 1
    assert (data / "out" / "labels.ctbl").is_file() and (data / "out" / "failures.csv").is_file()


def test_another_report_stands_beside_it(data):
    assert _run(data).exit_code == 0
    result = _run(data, "--compare", f"supervised={data / 'out'}")
    assert result.exit_code == 0, result.output
    page = (data / "out" / "report.html").read_text(encoding="utf-8")
    assert "Methods side by side" in page and ">pred<" in page.replace("\n", "").replace(" ", ""), "its own scores, too"


def test_a_report_of_other_scans_is_not_called_the_same(data):
    (data / "some").mkdir()
    for path in (data / "labels").glob("sub-2*"):
        (data / "some" / path.name).write_bytes(path.read_bytes())
    arguments = ["-p", str(data / "pred"), "-l", str(data / "some"), "-o", str(data / "other")]
    assert CliRunner().invoke(report, arguments).exit_code == 0
    twice = [f"--compare=other={data / 'other'}", f"--compare=other={data / 'out'}"]
    assert "--compare names 'other' twice" in _run(data, *twice).output
    assert _run(data, twice[0]).exit_code == 0
    page = (data / "out" / "report.html").read_text(encoding="utf-8")
    assert "Not of the same 2 scans" in page and "other has 1 scans, 1 of these" in page
    assert _run(data, "--compare", f"again={data / 'out'}").exit_code == 0
    assert "Same scans, same convention." in (data / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("told", ["beside", "json", "images"])
def test_scans_for_pictures_are_found_wherever_they_lie(data, told):
    scans = data / ("labels" if told == "beside" else "scans")
    scans.mkdir(exist_ok=True)
    for scan in list((data / "labels").glob("*_T2w.nii.gz")):
        scan.rename(scans / scan.name)
        if told == "json":
            sidecar = data / "pred" / f"{scan.name.removesuffix('.nii.gz')}_dseg.json"
            sidecar.write_text(json.dumps({"Sources": [str(scans / scan.name)]}))
    images = scans if told == "images" else None
    result = report_predictions(data / "pred", data / "labels", data / "out", images=images)
    assert [case.image for case in result.evaluation.scored] == [scans / f"sub-{n}_T2w.nii.gz" for n in (1, 2)]


def test_the_method_that_is_scored_stands_beside_the_others_under_its_name(data):
    page = report_predictions(data / "pred", data / "labels", data / "out", method="ours").html.read_text(
        encoding="utf-8"
    )
    assert "Methods side by side" in page and ">ours<" in page.replace("\n", "").replace(" ", "")


def test_datalist_names_cases_and_unannotated_classes(data):
    entry = {"image": "labels/sub-1_T2w.nii.gz", "label": "labels/sub-1_dseg.nii.gz", "subject": "sub-1"}
    (data / "list.json").write_text(json.dumps({"test": [entry], "unannotated": [1]}))
    result = _run(data, labels="list.json")
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(data / "out" / "structures.csv")) == 18
    assert "1 not scored" in result.output  # the other prediction has no label in the datalist
    (data / "list.json").write_text(json.dumps({"test": [entry], "structures": {"1": "cord"}}))
    other = _run(data, labels="list.json")
    assert other.exit_code == 1 and "code 1 'cord', not 'S'" in other.output


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--unannotated", "C1"), "no structure is called 'C1'"),
        (("--compare", "supervised"), "expected NAME=FOLDER"),
        (("--compare", "a=/nowhere"), "not found"),
        (
            ("--section", "trainnig", "--dataset-dir", "x"),
            "--section, --dataset-dir: not used where --labels is a folder",
        ),
        (("--metrics", "/nowhere.csv"), "not found"),
    ],
)
def test_wrong_settings_are_told_without_a_traceback(data, more, words):
    result = _run(data, *more)
    assert result.exit_code in (1, 2) and words in result.output
    assert not (data / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pred", "--section", "test", "--max-pictures", "0"], "--section, --max-pictures: not used without --labels"),
        (["pred", "--compare", "a=b"], "--compare: not used without --labels"),
        (["pred", "-p", "labels"], "MASKS (pred) and -p (labels) are the same thing"),
    ],
)
def test_options_that_would_do_nothing_are_refused(data, monkeypatch, arguments, words):
    monkeypatch.chdir(data)
    result = CliRunner().invoke(report, arguments)
    assert result.exit_code == 2 and words in result.output
    assert not (data / "out").exists()


def test_without_an_order_no_levels_are_counted(data):
    structures = [Structure(code, f"part {code}", f"part {code}", "other") for code in range(1, 20)]
    anatomy = Anatomy((Structure(0, "background", "background", "background"), *structures))
    result = report_predictions(data / "pred", data / "labels", data / "out", anatomy=anatomy)
    assert result.headline()[0].startswith("Dice (b): 0.833 (") and "levels" not in result.headline()[0]
    assert pd.read_csv(data / "out" / "cases.csv")["all_levels_right"].isna().all()
    page = result.html.read_text(encoding="utf-8")
    assert "All levels right" not in page and "off by one" not in page and "identified" not in page
    assert (
        "all levels right in 1 of 2 scans"
        in report_predictions(data / "pred", data / "labels", data / "out").headline()[0]
    )


def test_files_of_the_user_are_not_replaced_and_those_of_an_earlier_report_are(data):
    (data / "out").mkdir()
    (data / "out" / "summary.csv").write_text("mine")
    result = _run(data)
    assert result.exit_code == 1 and "summary.csv: found a file that this command did not write" in result.output
    assert [(p.name, p.read_text()) for p in (data / "out").iterdir()] == [("summary.csv", "mine")]
    (data / "out" / "summary.csv").unlink()
    assert _run(data).exit_code == 0 and _run(data).exit_code == 0
    (data / "out" / "cases.csv").write_text("edited")
    assert _run(data).exit_code == 1 and (data / "out" / "cases.csv").read_text() == "edited"


def test_results_of_another_command_are_refused_either_way(data):
    assert CliRunner().invoke(report, [str(data / "pred")]).exit_code == 0  # as `cps4 segment` leaves its folder
    before = {path.name: path.read_bytes() for path in (data / "pred").iterdir()}
    arguments = ["-p", str(data / "pred"), "-l", str(data / "labels"), "-o", str(data / "pred")]
    result = CliRunner().invoke(report, arguments)
    assert result.exit_code == 1, result.output
    assert (
        "cps4_files.json: found results of cps4 segment" in result.output and "another output folder" in result.output
    )
    assert {path.name: path.read_bytes() for path in (data / "pred").iterdir()} == before
    assert CliRunner().invoke(report, [str(data / "pred")]).exit_code == 0
    assert _run(data).exit_code == 0
    result = CliRunner().invoke(report, [str(data / "pred"), "-o", str(data / "out")])
    assert result.exit_code == 1 and "found results of cps4 report --labels or cps4 evaluate" in result.output


def test_a_run_writes_again_into_its_own_folder(data):
    (data / "out").mkdir()
    (data / "out" / "summary.csv").write_text("of a version that kept no hashes")
    for _ in range(2):
        made = report_predictions(data / "pred", data / "labels", data / "out")
        assert len(pd.read_csv(data / "out" / "summary.csv")) == len(made.evaluation.summary)
        (data / "out" / "report.html").write_text("edited")


def test_nothing_that_could_be_scored_is_an_error_with_the_reason(data):
    for path in (data / "pred").iterdir():
        path.write_bytes(b"")
    result = _run(data)
    assert result.exit_code == 1 and "none of 2 cases could be scored" in result.output
