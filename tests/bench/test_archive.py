"""Results without weights: the same report from them, nothing of the machine in them, and the study goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from cps4_monai.bench.archive import archive_results
from cps4_monai.bench.folders import DONE, SETTINGS, write_json
from cps4_monai.bench.matrix import Data
from cps4_monai.bench.plan import TRAINING, WEIGHTS, StudyPlan, make_plan
from cps4_monai.bench.report import write_study_report
from cps4_monai.bench.results import find_studies, load_results
from cps4_monai.bench.study import load_study
from cps4_monai.cli import main
from cps4_monai.file_hash import by_content

SCORES = {("base", "5", 0): {"s1": 0.2, "s2": 0.4}, ("ours", "5", 0): {"s1": 0.5, "s2": 0.45}}


@pytest.fixture
def runs(write_runs) -> Path:
    """Two cells and a stage 1 that are done, one of each that is not; weights and predictions beside what is kept."""
    folder = write_runs({**SCORES, ("ours", "5", 1): {}})
    for job in [*folder.glob("cells/*"), *folder.glob("stage1/*")]:
        kind = "cell" if job.parent.name == "cells" else "stage1"
        done = {"seconds": {"training": 150.0, "validation": 1.0, "test": 1.0}, "finished": {}}
        write_json(job / SETTINGS, {"name": job.name})
        if not (job / "task.json").is_file():
            write_json(job / "task.json", {"overlays": [str(folder / "own.json")], "command": f"cps4 -o {job}"})
            write_json(job / DONE, done)
        for heavy in (WEIGHTS[kind], Path("test") / "predictions" / "s1.nii.gz"):
            (job / heavy).parent.mkdir(parents=True, exist_ok=True)
            (job / heavy).write_bytes(b"\0" * 4096)
    return folder


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_the_report_of_an_archive_is_that_of_the_runs(runs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "out.tar.xz"
    result = CliRunner().invoke(main, ["bench", "archive", str(runs), "-o", str(archive)])
    assert result.exit_code == 0 and "3 finished jobs; 2 are not done" in result.output, result.output
    elsewhere = unpack(archive, tmp_path / "elsewhere")
    pages = [
        write_study_report(
            one, tmp_path / "report", pictures=False, section="test", attribution=""
        ).markdown.read_text()
        for one in (runs, elsewhere)
    ]
    assert pages[0] == pages[1] and "ours-5pct-seed1" in pages[0]


def test_the_report_of_an_archive_has_pictures_on_and_says_whose_the_scans_are(runs: Path, tmp_path: Path) -> None:
    manifest = runs / "made_up.study.json"
    stated = {"dataset": "Made up", "license": "CC0"}
    write_json(manifest, {**json.loads(manifest.read_text()), "data": stated})
    archive_results(runs, tmp_path / "out.tar.xz")
    elsewhere = unpack(tmp_path / "out.tar.xz", tmp_path / "elsewhere")
    (elsewhere / "stage1" / "own-0" / DONE).unlink()
    result = CliRunner().invoke(main, ["bench", "report", str(elsewhere), "-o", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    assert "Scans: Made up. CC0." in (tmp_path / "report" / "studies.md").read_text()


def test_neither_weights_nor_places_are_in_it_and_the_same_runs_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    record = next(runs.glob("cells/ours-5pct-seed0/stage2/run.json"))
    start = json.loads(record.read_text())["starts"][0]
    started = {"finetune_from": str(runs / "m.pt"), "views": [str(runs / "own")], "seed": 0}
    write_json(record, {"starts": [{**start, "settings": started, "command": [str(runs / "task.py")]}]})
    (runs / "bert").mkdir()
    recorded = {"here": str(runs / "bert"), "gone": str(runs / "gone.pt"), "named": "m.pt, SHA-256 0", "seed": 0}
    write_json(runs / "cells" / "ours-5pct-seed0" / SETTINGS, recorded)
    manifest = runs / "made_up.study.json"
    content = json.loads(manifest.read_text())
    content["cells"][0] |= {"overlays": [str(runs / "own.json")], "settings": {"finetune_from": str(runs / "m.pt")}}
    encoder = f'VisionEncoder(checkpoint_path="{runs}/vit.pt", pretrained=true)'
    content["budget"] = [["finetune_from", "weights", {f'"{runs}/m.pt"': "base", encoder: "ours"}]]
    write_json(manifest, content)
    failures = runs / "cells" / "ours-5pct-seed0" / "test" / "failures.csv"
    failures.write_text(f"case,file,reason\na,{runs}/a.nii.gz,{runs}/a.nii.gz: no header\n")
    archives = [tmp_path / "one.tar.xz", tmp_path / "two.tar.xz"]
    for archive in archives:
        archive_results(runs, archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    files = [path for path in unpack(archives[0], tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pt", ".gz")]
    assert not [path for path in files if str(tmp_path) in path.read_text()]
    task = json.loads((tmp_path / "elsewhere" / "cells" / "ours-5pct-seed0" / "task.json").read_text())
    cell = json.loads((tmp_path / "elsewhere" / "made_up.study.json").read_text())["cells"][0]
    assert cell["overlays"] == ["own.json"] and cell["settings"] == {"finetune_from": "m.pt"}
    budget = json.loads((tmp_path / "elsewhere" / "made_up.study.json").read_text())["budget"]
    assert list(budget[0][2]) == ['"m.pt"', 'VisionEncoder(checkpoint_path="vit.pt", pretrained=true)']
    run = json.loads((tmp_path / "elsewhere" / record.relative_to(runs)).read_text())["starts"][0]
    assert run["settings"] == {"finetune_from": "m.pt", "views": ["own"], "seed": 0} and "command" not in run
    settings = json.loads((tmp_path / "elsewhere" / "cells" / "ours-5pct-seed0" / SETTINGS).read_text())
    assert settings == {**recorded, "here": by_content(recorded)["here"], "gone": "gone.pt"}
    assert settings["here"].startswith("bert, SHA-256 ")
    kept = tmp_path / "elsewhere" / failures.relative_to(runs)
    assert kept.read_text() == "case,file,reason\na,a.nii.gz,a.nii.gz: no header\n"
    assert task == {"overlays": ["ours", "study"], "places": {"datalist": "list.json", "dataset_dir": "runs"}}


def test_what_is_no_archive_of_studies_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out.zip: expected a name that ends in \.tar\.xz"):
        archive_results(runs, tmp_path / "out.zip")
    with pytest.raises(ValueError, match=r"asked for \['other'\]"):
        archive_results(runs, tmp_path / "out.tar.xz", ["other"])
    with pytest.raises(ValueError, match=r"no cell matches --only 'theirs'; the cells are base-5pct-seed0, ours-5pct"):
        archive_results(runs, tmp_path / "out.tar.xz", only=["ours", "theirs"])


def test_only_keeps_some_cells_with_their_stage_1_and_archives_go_into_one_folder(runs: Path, tmp_path: Path) -> None:
    assert archive_results(runs, tmp_path / "ours.tar.xz", only=["ours-*-seed0"]) == (2, 0)
    assert archive_results(runs, tmp_path / "base.tar.xz", only=["base"]) == (1, 0)
    elsewhere = unpack(tmp_path / "ours.tar.xz", tmp_path / "elsewhere")
    assert sorted(path.name for path in elsewhere.glob("*/*")) == ["ours-5pct-seed0", "own-0"]
    results = load_results(find_studies(unpack(tmp_path / "base.tar.xz", elsewhere))[0], elsewhere, "test")
    assert [cell.name for cell in results.cells] == ["base-5pct-seed0", "ours-5pct-seed0"]
    assert results.missing == ("ours-5pct-seed1",)


def test_a_second_archive_with_the_same_names_for_other_trainings_gives_the_first_study_no_scores(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive_results(runs, tmp_path / "first.tar.xz")
    manifest = json.loads((runs / "made_up.study.json").read_text())
    (runs / "made_up.study.json").unlink()
    write_json(runs / "other.study.json", {**manifest, "study": "other"})
    write_json(runs / "cells" / "base-5pct-seed0" / SETTINGS, {"name": "base-5pct-seed0", "learning_rate": 0.1})
    archive_results(runs, tmp_path / "second.tar.xz")
    elsewhere = unpack(tmp_path / "second.tar.xz", unpack(tmp_path / "first.tar.xz", tmp_path / "elsewhere"))
    results = {one["study"]: load_results(one, elsewhere, "test") for one in find_studies(elsewhere)}
    assert "base-5pct-seed0" in [cell.name for cell in results["other"].cells]
    assert [cell.name for cell in results["made_up"].cells] == ["ours-5pct-seed0"]
    assert "base-5pct-seed0" in results["made_up"].missing
    archive_results(elsewhere, tmp_path / "third.tar.xz", ["made_up"])
    again = unpack(tmp_path / "third.tar.xz", tmp_path / "again")
    assert "base-5pct-seed0" in load_results(find_studies(again)[0], again, "test").missing, "nor by a third one"
    assert "base-5pct-seed0: left out" in caplog.text and "unpack each archive into a folder of its own" in caplog.text


def test_settings_that_a_later_version_records_make_no_other_training(runs: Path, tmp_path: Path) -> None:
    """As where one study of an archive goes on, and trains the stage 1 again that another one shares."""
    archive_results(runs, tmp_path / "a.tar.xz")
    elsewhere = unpack(tmp_path / "a.tar.xz", tmp_path / "elsewhere")
    record = elsewhere / "stage1" / "own-0" / SETTINGS
    write_json(record, {**json.loads(record.read_text()), "a_new_option": None})
    assert "ours-5pct-seed0" in [
        cell.name for cell in load_results(find_studies(elsewhere)[0], elsewhere, "test").cells
    ]


@pytest.mark.parametrize("left", ["{", None])
def test_a_job_without_a_record_of_its_training_is_named(runs: Path, tmp_path: Path, left: str | None) -> None:
    record = runs / "cells" / "base-5pct-seed0" / "stage2" / "run.json"
    record.unlink() if left is None else record.write_text(left)
    result = CliRunner().invoke(main, ["bench", "archive", str(runs), "-o", str(tmp_path / "a.tar.xz")])
    assert result.exit_code == 1 and f"{record}: not there, or cut off" in result.output


def test_a_job_that_two_studies_share_is_kept_once_one_of_them_has_it(runs: Path, tmp_path: Path) -> None:
    other = json.loads((runs / "made_up.study.json").read_text())
    shared = [entry for entry in other["cells"] if entry["name"] == "base-5pct-seed0"]
    write_json(runs / "more.study.json", {**other, "study": "more", "cells": shared, "evaluate": ["another"]})
    assert archive_results(runs, tmp_path / "a.tar.xz") == (3, 3), "which the second study still waits for"
    elsewhere = unpack(tmp_path / "a.tar.xz", tmp_path / "elsewhere")
    (study,) = find_studies(elsewhere, ["made_up"])
    assert "base-5pct-seed0" in [cell.name for cell in load_results(study, elsewhere, "test").cells]


def finish(plan: StudyPlan, *names: str) -> None:
    """Leaves the jobs of these cells as trained and scored."""
    for job in {id(one): one for name in names for one in (plan.cells[name].after, plan.cells[name]) if one}.values():
        job.prepare()
        (job.folder / WEIGHTS[job.kind]).parent.mkdir(exist_ok=True)
        (job.folder / WEIGHTS[job.kind]).write_bytes(b"")
        write_json(job.folder / DONE, {"seconds": dict.fromkeys((TRAINING, *job.sections), 1.0)})


def test_a_stage_1_without_weights_is_trained_again_for_a_cell_that_is_left(tiny_data, write_study, tmp_path) -> None:
    def planned() -> StudyPlan:
        study = load_study(write_study(["supervised", "cps4", "cps4_levers"], [25]))
        return make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu")

    plan = planned()
    assert plan.cells["cps4-25pct-seed0"].after is plan.cells["cps4_levers-25pct-seed0"].after
    finish(plan, "supervised-25pct-seed0", "cps4-25pct-seed0")
    assert [job.name for job in planned().open_jobs()] == ["cps4_levers-25pct-seed0"]
    for weights in (tmp_path / "runs").rglob("*.pt"):
        weights.unlink()
    plan = planned()
    assert plan.open_jobs("supervised", "cps4-") == [], "what is done needs no weights"
    stage1, cell = plan.open_jobs()
    assert (stage1.kind, stage1.left) == ("stage1", (TRAINING, *stage1.sections)) and cell.after is stage1
    stage1.prepare()
    assert not (stage1.folder / DONE).exists(), "the scores are of the weights that are gone"


def test_an_archive_over_a_training_under_way_does_not_make_its_weights_the_ones_that_were_scored(
    tiny_data, write_study, tmp_path
) -> None:
    study = load_study(write_study(["cps4"], [50], seeds=[0], evaluate=["validation"]))
    (cell,) = make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu").cells.values()
    stage1 = cell.after
    stage1.prepare()
    weights = stage1.folder / WEIGHTS["stage1"]
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"of the first epoch")
    done = {"seconds": dict.fromkeys((TRAINING, "validation"), 1.0), "stage1_sha256": sha256_of(b"of the last epoch")}
    write_json(stage1.folder / DONE, done)

    def planned() -> StudyPlan:
        return make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu")

    assert [(job.kind, job.left[0]) for job in planned().open_jobs()] == [("stage1", TRAINING), ("cell", TRAINING)]
    weights.write_bytes(b"of the last epoch")
    assert [job.kind for job in planned().open_jobs()] == ["cell"]


def test_a_section_more_trains_a_cell_without_weights_again(tiny_data, write_study, tmp_path) -> None:
    def planned(sections: list[str]) -> StudyPlan:
        study = load_study(write_study(["cps4"], [25], evaluate=sections))
        return make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu")

    finish(planned(["validation"]), "cps4-25pct-seed0")
    left = {job.kind: job.left for job in planned(["validation", "test"]).open_jobs()}
    assert left == {"stage1": ("test",), "cell": ("test",)}
    shutil.rmtree(tmp_path / "runs" / "cells" / "cps4-25pct-seed0" / "stage2")
    (left_cell,) = [job for job in planned(["validation", "test"]).open_jobs() if job.kind == "cell"]
    assert left_cell.left == (TRAINING, "validation", "test")
    for weights in (tmp_path / "runs").rglob("*.pt"):
        weights.unlink()
    left = {job.kind: job.left for job in planned(["validation", "test"]).open_jobs()}
    assert left == dict.fromkeys(("stage1", "cell"), (TRAINING, "validation", "test"))


def test_a_section_more_trains_a_stage_1_without_weights_again_and_not_the_cell_that_has_its_own(
    tiny_data, write_study, tmp_path
) -> None:
    def planned(sections: list[str]) -> StudyPlan:
        study = load_study(write_study(["cps4"], [25], evaluate=sections))
        return make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu")

    finish(planned(["validation"]), "cps4-25pct-seed0")
    (tmp_path / "runs" / "stage1" / "cps4-25pct-seed0" / WEIGHTS["stage1"]).unlink()
    left = {job.kind: job.left for job in planned(["validation", "test"]).open_jobs()}
    assert left == {"stage1": (TRAINING, "validation", "test"), "cell": ("test",)}
