"""Cells of a study, stage 1 shared where it is the same, folders found again by their settings."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cps4_monai.bench import plan as plan_module
from cps4_monai.bench.display import show_plan
from cps4_monai.bench.encoders import check_encoders
from cps4_monai.bench.folders import DONE, SETTINGS, FolderShelf, read_json_or_empty, write_json
from cps4_monai.bench.matrix import Data
from cps4_monai.bench.plan import StudyPlan, make_plan
from cps4_monai.bench.study import StudyError, load_study
from cps4_monai.file_hash import by_content
from cps4_monai.pretrained import CATALOGUE
from cps4_monai.pretrained.store import write_record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan(tiny_data: Path, write_study, tmp_path: Path):
    def make(names: list[str], shares: list, **keys) -> StudyPlan:
        study = load_study(write_study(names, shares, **keys))
        return make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu")

    return make


def test_stage_1_is_shared_by_all_cells_with_the_same_settings_of_it(plan) -> None:
    methods = {
        "no_text": {"method": "cps4", "settings": {"train#method#text_weight": 0.0}},
        "token_only": {"method": "cps4", "settings": {"stage1#loss#pixel_weight": 0.0}},
    }
    made = plan(["supervised", "cps4", "no_text", "token_only"], [25], methods=methods, seeds=[0, 1])
    after = {name: job.after for name, job in made.cells.items()}
    assert after["supervised-25pct-seed0"] is None
    assert after["cps4-25pct-seed0"] is after["no_text-25pct-seed0"] is not None
    assert after["token_only-25pct-seed0"] not in (None, after["cps4-25pct-seed0"])
    assert after["cps4-25pct-seed1"] is not after["cps4-25pct-seed0"]
    assert [job.kind for job in made.jobs].count("stage1") == 4 and len(made.cells) == 8
    order = [id(job) for job in made.jobs]
    assert all(order.index(id(job.after)) < order.index(id(job)) for job in made.jobs if job.after)
    seeds = [job.task["settings"]["seed"] for job in made.jobs]
    assert seeds == sorted(seeds), "all methods of one seed before the next seed"


def test_rotation_gives_each_seed_its_own_labeled_subjects_and_its_own_stage_1(plan) -> None:
    made = plan(["cps4"], [25, 50], seeds=[0, 1], rotate_labeled={25: True})
    labeled = {entry["name"]: entry["labeled_subjects"] for entry in made.entries}
    assert labeled["cps4-50pct-seed0"] is None and labeled["cps4-50pct-seed1"] is None
    assert not set(labeled["cps4-25pct-seed0"]) & set(labeled["cps4-25pct-seed1"])


def test_overlays_can_be_an_axis_of_the_matrix(plan, tmp_path: Path) -> None:
    overlay = tmp_path / "hot.json"
    overlay.write_text('{"learning_rate": 0.5}')
    block = {"methods": ["supervised"], "shares": [25], "overlays": {"hot": [str(overlay)], "": []}}
    made = plan(["supervised"], [25], matrix=[block], may_differ=["learning_rate"])
    assert set(made.cells) == {"supervised+hot-25pct-seed0", "supervised-25pct-seed0"}
    with pytest.raises(
        StudyError, match=r"unequal budgets: learning rate \(learning_rate\) is 0.0001 for .* and 0.5 for"
    ):
        plan(["supervised"], [25], matrix=[block])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"settings": {"iterations_per_epoch": None}}, "iterations_per_epoch is null, a pass over the data"),
        ({"settings": {"seed": 3}}, "'seed' is set by the study; state it under 'seeds'"),
        ({"settings": {"cache_dir": "x"}}, "'cache_dir' is set by the study; leave it out"),
        ({"settings": {"learning_rte": 3}}, "did you mean learning_rate"),
        ({"methods": {"cps4": {"settings": {"max_epochs": 9}}}}, "unequal budgets: epochs"),
        ({"methods": {"cps4": {"settings": {"features": [4, 16]}}}}, "unequal budgets: network's features"),
        ({"methods": {"cps4": {"settings": {"geometry#scale": 0.5}}}}, "unequal budgets: geometric augmentation"),
        (
            {
                "methods": {"cps4": {}, "clip": {"settings": {"stage1#max_epochs": 9}}},
                "matrix": [{"methods": ["cps4", "clip"], "shares": [25]}],
            },
            r"stage 1: epochs \(stage1#max_epochs\) is \d+ for cps4-25pct-seed0 and 9 for clip-25pct-seed0",
        ),
        ({"matrix": [{"methods": ["cps4"], "shares": [25]}] * 2}, "holds the cell cps4-25pct-seed0 twice"),
        ({"matrix": [{"methods": ["cps4"], "shares": [33]}]}, "no labeled share '33'"),
        ({"methods": {"cps4": {"overlays": ["nothing"]}}}, "no config called 'nothing'"),
    ],
)
def test_what_would_spoil_the_comparison_is_refused(plan, keys: dict, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        plan(["supervised", "cps4"] if "matrix" not in keys else ["cps4"], [25], **keys)


def test_what_the_study_lets_differ_is_stated(plan) -> None:
    methods = {"cps4": {"settings": {"max_epochs": 9}}}
    made = plan(["supervised", "cps4"], [25], methods=methods, may_differ=["max_epochs"])
    stated = {setting: by_value for setting, _, by_value in made.budget}
    assert stated["max_epochs"] == {"1": "supervised", "9": "cps4"}
    assert list(stated["features"].values()) == ["supervised, cps4"]
    assert list(stated["stage1#max_epochs"].values()) == ["cps4"], "supervised has no stage 1"


@pytest.mark.parametrize(
    ("setting", "value", "shown"),
    [
        (
            "stage1#vision_model",
            "vit_base_patch16_224",
            'is "vit_tiny_patch16_224" for cps4-.* and "vit_base_patch16_224"',
        ),
        ("stage1#vision_checkpoint", "vit-s-focus", 'is null for cps4-.* and "vit-s-focus" for other-'),
        ("stage1#vision_pretrained", True, "is false for"),
        ("stage1#start_from", "better.pt", 'is null for .* and "better.pt"'),
        ("stage1#text_model", "gpt", 'and "gpt" for'),
        ("stage1#embedding_dim", 96, "stage 1: size of the embeddings .* and 96 for"),
        ("stage1#val_interval", 9, "stage 1: epochs between validations .* and 9 for"),
        ("stage1#early_stopping_patience", 3, "stage 1: early stopping .* is null for .* and 3 for"),
        ("stage1#optimizer#weight_decay", 0.1, "stage 1: weight decay .* is null for .* and 0.1 for"),
        ("stage1#optimizer#betas", [0.5, 0.9], r"is null for .* and \[0.5, 0.9\] for"),
        ("stage1#stage#max_epochs", 100, r"is \d+ for .* and 100 for"),
        ("stage1#stage#batch_size_labeled", 100, r"is \d+ for .* and 100 for"),
        ("stage1#network_def#embedding_dim", 96, r"is \d+ for .* and 96 for"),
        ("stage1#image_encoder#depth", 12, "VisionEncoder.*vit_tiny_patch16_224.* for other-"),
        (
            "train#network",
            {"_target_": "cps4_monai.networks.ResUNet", "in_channels": 1, "out_channels": 20, "features": [64, 512]},
            r"deployed network .*ResUNet.* for cps4-.*\[64, 512\].* for other-",
        ),
    ],
)
def test_what_decides_stage_1_or_is_deployed_is_budget(plan, setting: str, value: object, shown: str) -> None:
    methods = {"other": {"method": "cps4", "settings": {setting: value}}}
    with pytest.raises(StudyError, match="unequal budgets: ") as refused:
        plan(["cps4", "other"], [25], methods=methods)
    assert re.search(shown, str(refused.value)), refused.value
    named = re.search(r"add '(.*)' to 'may_differ'", str(refused.value))
    assert named and setting.startswith(named[1])
    assert plan(["cps4", "other"], [25], methods=methods, may_differ=[named[1]]).cells


@pytest.mark.parametrize(
    "settings",
    [
        {"stage1#loss#pixel_weight": 0.0},
        {"stage1#token_weight": 1.0},
        {"stage1#centre_prompts": True},
        {"prompt_map#presence_threshold": 0.3},
        {"train#network": {"_target_": "cps4_monai.networks.StudentPair", "backbone": "@network", "seed": 1}},
    ],
)
def test_objective_prompts_and_what_is_around_the_network_are_a_methods_own(plan, settings: dict) -> None:
    assert plan(["cps4", "other"], [25], methods={"other": {"method": "cps4", "settings": settings}}).cells


def test_two_names_of_one_training_are_refused(plan) -> None:
    methods = {"other": {"method": "cps4", "settings": {"stage1#stage#max_epochs": "@stage1#max_epochs"}}}
    with pytest.raises(StudyError, match="cps4-25pct-seed0 and other-25pct-seed0 are one training"):
        plan(["cps4", "other"], [25], methods=methods)


def test_files_to_start_from_count_by_their_content(plan, tmp_path: Path) -> None:
    def folder(weights: Path) -> Path:
        made = plan(["supervised"], [25], settings={"finetune_from": str(weights)})
        (job,) = made.open_jobs()
        job.prepare()
        return job.folder

    (tmp_path / "moved").mkdir()
    weights, moved = tmp_path / "model.pt", tmp_path / "moved" / "model.pt"
    weights.write_bytes(b"trained")
    moved.write_bytes(b"trained")
    first = folder(weights)
    assert folder(moved) == first and str(tmp_path) not in (first / SETTINGS).read_text()
    weights.write_bytes(b"trained again")
    assert folder(weights).name == "supervised-25pct-seed0-2"


def test_folders_to_start_from_count_by_their_content_and_older_records_by_their_place(plan, tmp_path: Path) -> None:
    def job(model: Path):
        made = plan(["cps4"], [25], settings={"stage1#text_model": str(model)})
        return made.cells["cps4-25pct-seed0"].after, made.cells["cps4-25pct-seed0"]

    models = [tmp_path / place / "bert" for place in ("here", "moved", "other")]
    for model in models:
        (model / ".cache").mkdir(parents=True)
        (model / ".cache" / "fetched").write_text(str(model))
        (model / "config.json").write_text(str(model == models[2]))
    first = job(models[0])
    for one in first:
        one.prepare()
        assert str(tmp_path) not in (one.folder / SETTINGS).read_text()
    assert [one.folder for one in job(models[1])] == [one.folder for one in first]
    assert not {one.folder for one in job(models[2])} & {one.folder for one in first}
    for one in first:  # as versions before recorded it
        settings = json.loads((one.folder / SETTINGS).read_text())
        named = {key for key, value in settings.items() if str(value).startswith("bert, SHA-256 ")}
        assert any(key.endswith("stage1#text_model") for key in named)
        write_json(one.folder / SETTINGS, {**settings, **dict.fromkeys(named, str(models[0]))})
    assert [one.folder for one in job(models[0])] == [one.folder for one in first]
    assert not {one.folder for one in job(models[1])} & {one.folder for one in first}, "nothing tells its content"


def test_of_the_folder_of_a_bundle_its_weights_count(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    setting = {"finetune_from": str(tmp_path / "bundle"), "mode": "bundle"}
    (tmp_path / "bundle" / "models" / "model.pt").write_bytes(b"trained")
    before = by_content(setting)
    (tmp_path / "bundle" / "run.log").write_text("one line more")
    assert by_content(setting) == before and before["mode"] == "bundle"
    assert re.fullmatch("bundle, SHA-256 [0-9a-f]{64}", before["finetune_from"])
    (tmp_path / "bundle" / "models" / "model.pt").write_bytes(b"trained again")
    assert by_content(setting) != before


def test_a_word_is_no_folder_of_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "validation").mkdir()
    monkeypatch.chdir(tmp_path)
    assert by_content({"section": "validation"}) == {"section": "validation"}


def test_a_network_of_other_features_may_differ_by_its_own_id(plan) -> None:
    methods = {"other": {"method": "cps4", "settings": {"features": [4, 16]}}}
    assert plan(["cps4", "other"], [25], methods=methods, may_differ=["features"]).cells


@pytest.mark.parametrize("study", sorted(ROOT.glob("studies/*.yaml")), ids=lambda path: path.stem)
def test_the_budgets_of_the_studies_that_come_along_are_equal(study: Path, tiny_data: Path, tmp_path: Path) -> None:
    made = load_study(study)
    shares = dict.fromkeys(share for block in made.matrix for share in block.shares)
    content = json.loads((tiny_data / "datalist.json").read_text())
    content["subsets"] = dict.fromkeys(shares, next(iter(content["subsets"].values())))
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps(content))
    blocks = tuple(replace(block, shares=block.shares[:1], seeds=block.seeds[:1]) for block in made.matrix[:1])
    study = replace(made, matrix=blocks, rotate_labeled=frozenset())
    assert make_plan(study, Data.read(datalist, tiny_data), tmp_path / "runs", "cpu").cells


def test_encoders_that_are_not_here_are_told_before_the_first_job_that_starts_from_them(
    plan, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("CPS4_CACHE_DIR", str(tmp_path / "cache"))
    named = {"stage1#vision_checkpoint": "vit-s-focus", "stage1#text_model": "minilm-l6"}
    made = plan(["supervised", "cps4"], [25], settings=named)
    with pytest.raises(StudyError, match=r"1 of the 3 jobs to run \(cps4-25pct-seed0, \.\.\.\)") as told:
        check_encoders(made.open_jobs())
    assert all(f"`cps4 weights {name}`" in str(told.value) for name in named.values())
    check_encoders(made.open_jobs("supervised"))
    stage1 = made.cells["cps4-25pct-seed0"].after
    assert stage1 is not None
    (stage1.folder / "stage1").mkdir(parents=True)
    (stage1.folder / "stage1" / "prompted_vision.pt").touch()
    write_json(stage1.folder / DONE, {"seconds": {"training": 1.0}})
    assert stage1 in made.open_jobs() and stage1.left == ("validation",)
    check_encoders(made.open_jobs())
    for name in named.values():
        (tmp_path / "cache" / "weights" / name).mkdir(parents=True)
        write_record(tmp_path / "cache" / "weights" / name, {"source": {"sha256": CATALOGUE[name].sha256}})
    (stage1.folder / DONE).unlink()
    check_encoders(made.open_jobs())


def test_the_manifest_says_whose_the_scans_are(tiny_data: Path, write_study, tmp_path: Path) -> None:
    content = json.loads((tiny_data / "datalist.json").read_text())
    datalist = tmp_path / "list.json"
    datalist.write_text(json.dumps({**content, "dataset": "Made up", "license": "CC0"}))
    study = load_study(write_study(["supervised"], [25]))
    written = make_plan(study, Data.read(datalist, tiny_data), tmp_path / "runs", "cpu").write()
    assert json.loads(written.read_text())["data"] == {"dataset": "Made up", "license": "CC0"}


def test_only_chooses_cells_and_brings_their_stage_1_along(plan) -> None:
    made = plan(["supervised", "cps4"], [25], seeds=[0, 1])
    names = [(job.kind, job.name) for job in made.open_jobs("cps4-*-seed1")]
    assert names == [("stage1", "cps4-25pct-seed1"), ("cell", "cps4-25pct-seed1")]
    assert len(made.open_jobs("seed0")) == 3 and made.matching("nothing") == []
    both = [job.name for job in made.open_jobs("seed0", "cps4-*-seed1")]
    assert both.count("cps4-25pct-seed1") == 2 and len(both) == 5 and "supervised-25pct-seed1" not in both


def test_a_folder_is_found_by_its_settings_and_never_reused_for_others(tmp_path: Path) -> None:
    def keep(folder: Path, settings: dict) -> None:
        folder.mkdir(parents=True)
        write_json(folder / SETTINGS, settings)

    first = FolderShelf(tmp_path).place("a", {"x": 1})
    assert first == tmp_path / "a"
    keep(first, {"x": 1})
    shelf = FolderShelf(tmp_path)
    assert shelf.place("a", {"x": 1, "new_and_off": None}) == first
    assert shelf.place("b", {"x": 1}) == first, "the same run under another name"
    second = shelf.place("a", {"x": 2})
    assert second == tmp_path / "a-2" and shelf.place("a", {"x": 2}) == second
    assert shelf.older("a", {"x": 2}) == {first: {"x": (1, 2)}}


def test_estimates_come_from_done_jobs_of_the_same_method_or_else_of_the_same_kind(plan) -> None:
    made = plan(["supervised", "cps4"], [25], seeds=[0, 1])
    job = {name: made.cells[name] for name in made.cells}
    assert made.estimates([job["cps4-25pct-seed0"]]) == [None]
    done = job["supervised-25pct-seed0"]
    done.prepare()
    write_json(done.folder / "done.json", {"seconds": {"training": 100.0, "validation": 8.0}})
    assert done.left == () and made.estimates([done]) == [0]
    others = [job["supervised-25pct-seed1"], job["cps4-25pct-seed0"]]
    assert made.estimates(others) == [108.0, 108.0]
    write_json(others[1].folder / "done.json", {"seconds": {"training": 300.0}})
    assert made.estimates([others[0], others[1], job["cps4-25pct-seed1"]]) == [108.0, 8.0, 308.0]


def test_a_plan_is_shown_with_a_number_of_reads_that_grows_like_its_jobs(plan, monkeypatch) -> None:
    reads: list[Path] = []
    monkeypatch.setattr(plan_module, "read_json_or_empty", lambda path: reads.append(path) or read_json_or_empty(path))

    def reads_per_job(seeds: int) -> float:
        made = plan(["supervised", "cps4"], [25], seeds=list(range(seeds)))
        write_json(made.jobs[0].folder / DONE, {"seconds": {"training": 100.0, "validation": 8.0}})
        left = made.open_jobs()
        reads.clear()
        show_plan(made, left, 1, Console(file=StringIO()))
        return len(reads) / len(made.jobs)

    assert reads_per_job(6) == pytest.approx(reads_per_job(2), rel=0.2)


def test_a_training_that_another_command_began_meanwhile_is_left_alone(plan) -> None:
    ours, theirs = (plan(["cps4"], [25], settings={"learning_rate": rate}) for rate in (1e-3, 1e-4))
    cell, other = ours.cells["cps4-25pct-seed0"], theirs.cells["cps4-25pct-seed0"]
    assert cell.folder == other.folder and cell.after is not None and cell.after.folder == other.after.folder
    other.prepare()
    before = {file.name: file.read_bytes() for file in other.folder.glob("*.json")}
    assert set(before) == {"settings.json", "overlay.json", "task.json", "planned.json"}
    told = r"cells/cps4-25pct-seed0: .*learning_rate is 0.0001, planned 0.001.*start this command again"
    with pytest.raises(StudyError, match=told):
        cell.prepare()
    assert {file.name: file.read_bytes() for file in other.folder.glob("*.json")} == before
    other.prepare()  # the same training again, here of another start

    def folders(manifest: Path) -> tuple[str, str]:
        (entry,) = json.loads(manifest.read_text())["cells"]
        return entry["folder"], entry["stage1"]

    assert folders(ours.write()) == ("cells/cps4-25pct-seed0-2", "stage1/cps4-25pct-seed0"), "no result of theirs"
    again = plan(["cps4"], [25], settings={"learning_rate": 1e-3})
    again.cells["cps4-25pct-seed0"].prepare()
    assert folders(again.write()) == ("cells/cps4-25pct-seed0-2", "stage1/cps4-25pct-seed0")
    assert folders(theirs.write())[0] == "cells/cps4-25pct-seed0"


def test_a_cell_does_not_begin_on_a_stage_1_that_another_command_made_meanwhile(plan) -> None:
    ours, theirs = (plan(["cps4"], [25], settings={"stage1#token_weight": weight}) for weight in (0.5, 0.25))
    stage1 = theirs.cells["cps4-25pct-seed0"].after
    assert stage1 is not None
    stage1.prepare()
    write_json(stage1.folder / DONE, {"seconds": dict.fromkeys(stage1.left, 1.0)})
    with pytest.raises(StudyError, match=r"stage1/cps4-25pct-seed0: .*token_weight is 0.25, planned 0.5"):
        ours.cells["cps4-25pct-seed0"].prepare()
    assert not (ours.cells["cps4-25pct-seed0"].folder / SETTINGS).exists()


def test_commands_in_parallel_may_write_one_file(tmp_path: Path, monkeypatch) -> None:
    replace, others = os.replace, [{"of": "another command"}]

    def interrupted(beside: Path, path: Path) -> None:
        if others:
            write_json(path, others.pop())
        replace(beside, path)

    monkeypatch.setattr("cps4_monai.atomic_file.os.replace", interrupted)
    write_json(tmp_path / "tiny.study.json", {"of": "this command"})
    assert json.loads((tmp_path / "tiny.study.json").read_text()) == {"of": "this command"}
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.study.json"]


def test_weights_are_hashed_once_for_all_cells_of_a_stage_1(plan, monkeypatch) -> None:
    methods = {"no_text": {"method": "cps4", "settings": {"train#method#text_weight": 0.0}}}
    made = plan(["cps4", "no_text"], [25], methods=methods)
    stage1 = made.cells["cps4-25pct-seed0"].after
    weights = stage1.folder / "stage1" / "prompted_vision.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    write_json(stage1.folder / DONE, {"seconds": {"training": 1.0}, "stage1_sha256": "of others"})
    read = []
    monkeypatch.setattr("cps4_monai.file_hash.file_sha256", lambda path: read.append(path) or "of these")
    assert "training" in stage1.left or (made.open_jobs() and "training" in stage1.left)
    assert [stage1.left for _ in range(3)] and len(read) == 1


def test_a_section_without_labeled_scans_is_told_before_the_trainings(write_study, tiny_data: Path, tmp_path) -> None:
    content = json.loads((tiny_data / "datalist.json").read_text())
    (tmp_path / "d.json").write_text(json.dumps({**content, "test": [{"image": content["test"][0]["image"]}]}))
    study = load_study(write_study(["supervised"], [25], evaluate=["validation", "test"]))
    with pytest.raises(StudyError, match="'test' has no labeled scan, which study tiny scores"):
        make_plan(study, Data.read(tmp_path / "d.json", tiny_data), tmp_path / "runs", "cpu")
