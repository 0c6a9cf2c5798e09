"""Settings that the workflow knows and refuses, and the configs that it finds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedEvaluator
from monai.handlers import StatsHandler
from torch import nn

from cps4_monai import workflow
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.training_lock import LOCK
from cps4_monai.workflow import CPS4Workflow, parse_settings, resolve_config


def build(*overlays: str, **settings: Any) -> CPS4Workflow:
    return CPS4Workflow(overlays=overlays, **settings)


@pytest.mark.parametrize(
    ("settings", "near"),
    [
        ({"learning_rte": 0.1}, "learning_rate"),
        ({"stage1#max_epoch": 3}, "stage1#max_epochs"),
        ({"train#trainer#max_epoch": 3}, "train#trainer#max_epochs"),
        ({"train#method#ema_decy": 0.9}, "train#method#ema_decay"),
        ({"stage1#loss#negative": "all"}, "stage1#loss#negatives"),
        ({"geometry": {"rotate_degs": 3.0}}, "geometry#rotate_deg"),
        ({"intensity#gama": [0.5, 2.0]}, "intensity#gamma"),
        ({"zzz": 3.0}, "see the configs"),
        ({"_max_epochs": 3}, "max_epochs"),
        ({"stage1#_max_epochs": 3}, "stage1#max_epochs"),
        ({"train#trainer#_max_epochs": 3}, "train#trainer#max_epochs"),
        ({"stage1#loss#_disable_": True}, "stage1#loss#_disabled_"),
        ({"_disabled_": True}, ""),
        ({"stage3#_target_": "torch.nn.Identity"}, "train#stage#_target_"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_names(settings: dict[str, Any], near: str) -> None:
    with pytest.raises(ValueError, match="which no config defines or reads") as caught:
        build(**settings)
    assert near in str(caught.value) and "the command sets" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.1},
        {"stage1#max_epochs": 3},
        {"train#stage#accumulation_steps": 2},
        {"train#method#deployed": "student"},
        {"stage1#image_encoder#patch_size": 4},
        {"stage1#image_encoder#drop_path_rate": 0.1},
        {"geometry": {"rotate_deg": 3.0}},
        {"stage1#loss#_disabled_": False},
        {"train#lr_scheduler#_target_": "torch.optim.lr_scheduler.StepLR"},
    ],
)
def test_known_settings_and_arguments_of_objects_pass(settings: dict[str, Any]) -> None:
    (key, value), *_ = settings.items()
    assert build(**settings).parser[key] == value


def test_an_overlay_may_add_what_it_reads_itself_and_nothing_else(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.json"
    overlay.write_text(json.dumps({"patience": 4, "early_stopping_patience": "@patience"}))
    assert build(str(overlay)).parser.get_parsed_content("early_stopping_patience") == 4
    overlay.write_text(json.dumps({"early_stoping_patience": 4}))
    with pytest.raises(ValueError, match=r"mine.json sets 'early_stoping_patience'.*early_stopping_patience"):
        build(str(overlay))
    overlay.write_text(json.dumps({"+stage1": {"max_epoch": 4}}))
    with pytest.raises(ValueError, match=r"'stage1#max_epoch'"):
        build(str(overlay))


def test_settings_belong_to_the_method_that_the_overlay_chooses() -> None:
    assert build("mean_teacher", consistency_weight=3.0).parser["consistency_weight"] == 3.0
    with pytest.raises(ValueError, match="train#method#enhance_weight"):
        build("supervised", **{"train#method#enhance_weight": 0.1})


def test_every_shipped_config_is_known_to_the_ones_before_it() -> None:
    configs = find_bundle_root() / "configs"
    methods = [p.stem for p in configs.glob("methods/*.json")]
    for overlay in (
        "small",
        "demo",
        "study",
        "study_pretrained",
        "release",
        "as_trained",
        "pretrained",
        "any_contrast",
        "evaluate",
        "multi_gpu_train",
        *methods,
    ):
        # Variants (`ucmt_paper`, `dusss_no_text`) are merged over the method that their name begins with.
        method = max((name for name in methods if overlay.startswith(f"{name}_")), key=len, default=overlay)
        build(*dict.fromkeys((method, overlay)))
    build("small", "demo", "mean_teacher", "multi_gpu_train")
    CPS4Workflow("inference.json", workflow_type="inference", checkpoint="model.pt")


def test_bundle_root_and_metadata_need_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    workflow = build()
    assert workflow.parser["bundle_root"] == str(find_bundle_root())
    assert workflow.parser["_meta_#version"] in workflow.parser["_meta_#changelog"]


def test_paths_in_a_runs_config_do_not_depend_on_the_working_directory(
    run_tiny: Callable, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_data)
    run_tiny("check_data", tmp_path, datalist="datalist.json", dataset_dir=".")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["datalist"], config["dataset_dir"]) == (str(tiny_data / "datalist.json"), str(tiny_data))


def test_of_monais_warnings_that_of_the_configs_folder_alone_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_monai, said = logging.getLogger("monai.bundle.workflows"), list[str]()
    monkeypatch.setattr(of_monai, "handle", lambda record: of_monai.filter(record) and said.append(record.getMessage()))
    (tmp_path / "mine.json").write_text('{"max_epochs": 3}')
    real = ConfigWorkflow.__init__

    def warns(self: Any, *args: Any, **options: Any) -> None:
        of_monai.warning("something else")
        real(self, *args, **options)

    monkeypatch.setattr(ConfigWorkflow, "__init__", warns)
    CPS4Workflow(overlays=[str(tmp_path / "mine.json")])
    assert "something else" in said and not [text for text in said if text.startswith("Not all config files")]
    of_monai.warning("Not all config files are in ./x, says another")
    assert said[-1].endswith("says another"), "left out while this workflow is built, and not for others"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("output_dir", 202501, ["--output_dir", "2025_01"]),
        ("output_dir", 1000.0, ["--max_epochs=3", "--output_dir=1e3"]),
        ("evaluation_dir", 2026, ["--evaluation_dir", "2026"]),
    ],
)
def test_folders_that_monais_command_line_takes_for_numbers_have_their_own_names(
    key: str, value: float, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = ["train.json", "evaluate.json"]
    assert CPS4Workflow(configs, **{key: value}).parser[key] == str(value), "in Python nobody wrote another one"
    monkeypatch.setattr(workflow, "_is_command", lambda: True)
    monkeypatch.setattr("sys.argv", ["bundle", "run", "--learning_rate", "1e-3", *words])
    built = CPS4Workflow(configs, learning_rate=1e-3, **{key: value}).parser
    assert built[key] == words[-1].rpartition("=")[2] and built["learning_rate"] == 1e-3


def test_an_exception_of_an_engine_is_told_once_and_in_one_line_by_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MONAI's handlers log the traceback, twice, before the command does what it promises."""
    monkeypatch.setattr(workflow, "_is_command", lambda: True)
    built = build()

    def fail(*_: Any) -> None:
        engine = SupervisedEvaluator("cpu", [1], nn.Identity(), iteration_update=lambda *_: 1 / 0)
        StatsHandler(iteration_log=False).attach(engine)
        engine.run()

    monkeypatch.setattr(ConfigWorkflow, "run", fail)
    monkeypatch.setattr(built, "_config_folder", lambda: None)
    said = list[str]()
    for name in ("monai.handlers.StatsHandler", "ignite.engine.engine.SupervisedEvaluator"):
        logger = logging.getLogger(name)
        heard = lambda record, logger=logger: logger.filter(record) and said.append(record.getMessage())  # noqa: E731
        monkeypatch.setattr(logger, "handle", heard)
    with pytest.raises(SystemExit, match="division by zero"):
        built.run()
    assert said and not [words for words in said if "xception" in words]
    with pytest.raises(ZeroDivisionError):
        fail()
    assert "Exception: division by zero" in said, "of others' runs nothing is left out"


def test_configs_are_found_by_path_by_file_and_by_name(tmp_path: Path) -> None:
    root = find_bundle_root()
    own = tmp_path / "own.json"
    own.write_text("{}")
    assert resolve_config(own, root) == own
    assert resolve_config("train.json", root) == root / "configs" / "train.json"
    assert resolve_config("mean_teacher", root) == root / "configs" / "methods" / "mean_teacher.json"
    with pytest.raises(FileNotFoundError, match=r"no config called 'men_teacher'; did you mean mean_teacher"):
        resolve_config("men_teacher", root)


def test_command_line_values_are_json_where_they_are_json() -> None:
    assert parse_settings(["a=3", "b#c=[1, 2]", "d=text", "e=null", "f=x=y", "g=None", "h=False"]) == {
        "a": 3,
        "b#c": [1, 2],
        "d": "text",
        "e": None,
        "f": "x=y",
        "g": None,
        "h": False,
    }
    with pytest.raises(ValueError, match="'learning_rate' is not of the form ID=VALUE"):
        parse_settings(["learning_rate"])


@pytest.mark.parametrize("value", ["{rotate_deg:15.0}", "[1, 2", "{'a': 1}"])
def test_a_list_or_mapping_that_is_no_json_is_refused_by_its_name(value: str) -> None:
    with pytest.raises(ValueError, match=r"setting geometry: .* is no JSON .*double quotes"):
        parse_settings([f"geometry={value}"])


def test_any_contrast_names_the_tissues_of_the_anatomy_and_keeps_the_other_settings() -> None:
    parser = build("release", "any_contrast", dataset_dir=".").parser
    intensity = parser.get_parsed_content("intensity")
    assert intensity["tissues"] == [list(range(1, 11)), list(range(11, 20))] and intensity["tissue_prob"] > 0
    assert intensity["gamma"] == [0.5, 2.0]  # release.json's


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"amp": "off"}, "'amp' to 'off'; expected true or false, e.g. false"),
        ({"amp": 1}, "'amp' to 1; expected true or false"),
        ({"learning_rate": "fast"}, "'learning_rate' to 'fast'; expected a number, e.g. 0.0001"),
        ({"slice_size": 64}, "'slice_size' to 64; expected a list"),
        ({"geometry": {"translate_pixels": 16}}, "'geometry#translate_pixels' to 16; expected a list"),
        ({"geometry#rotate_deg": "ten"}, "'geometry#rotate_deg' to 'ten'; expected a number"),
        ({"learning_rate": [1]}, r"'learning_rate' to \[1\]; expected a number"),
        ({"learning_rate": {"a": 1}}, "'learning_rate' to .*; expected a number"),
        ({"max_epochs": True}, "'max_epochs' to True; expected a number"),
        ({"geometry": {"scale": [0.1, 0.2]}}, r"'geometry#scale' to \[0.1, 0.2\]; expected a number"),
        ({"intensity": {"scale": False}}, "'intensity#scale' to False; expected a number or a list"),
        ({"seed": 1.5}, "'seed' to 1.5; expected a whole number, e.g. 0"),
        ({"seed": 1.0}, "'seed' to 1.0; expected a whole number"),
        ({"seed": True}, "'seed' to True; expected a whole number"),
    ],
)
def test_words_are_no_switches_and_single_values_no_lists(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        CPS4Workflow(**settings)


def test_numbers_may_be_whole_broken_null_an_expression_or_an_object() -> None:
    for name, value in (
        ("learning_rate", 1),
        ("stage1#lr_layer_decay", 0.75),
        ("stage1#network_def#logit_scale_init", 10),
        ("prompt_map#presence_threshold", None),
        ("max_epochs", "$3 + 4"),
        ("learning_rate", {"_target_": "builtins.float", "x": 1}),
        ("intensity#scale", [-0.1, 0.2]),
        ("seed", 3),
        ("seed", "$int('7')"),
    ):
        assert build(**{name: value}).parser[name] == value


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.json", "{", "cannot be read as JSON"),
        ("list.json", "[1]", "holds a list; expected an object of settings"),
        ("own.yaml", "max_epochs: 3", "cannot be read as JSON .*Fix: write it as JSON"),
    ],
)
def test_an_overlay_that_holds_no_settings_is_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} {said}"):
        build(str(tmp_path / name))


def test_thresholds_of_levels_and_numbers_without_a_digit_before_or_after_the_point() -> None:
    given = parse_settings(["level_thresholds#island_mm3=20.", "learning_rate=.5e-3", "amp=true", "labeled_share=05"])
    assert given["labeled_share"] == "05"
    config = CPS4Workflow(**given).parser
    assert (config["level_thresholds"], config["learning_rate"]) == ({"island_mm3": 20.0}, 0.0005)
    with pytest.raises(ValueError, match="did you mean level_thresholds#island_mm3"):
        CPS4Workflow(**{"level_thresholds#island_mm": 20.0})


@pytest.fixture
def warned(run_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Function that gives the warnings of a start with settings, of which nothing is run."""

    def start(run_id: str, *overlays: str, **settings: Any) -> list[str]:
        said: list[str] = []
        built = run_tiny(run_id, tmp_path, overlays, run=False, **settings)
        with monkeypatch.context() as patched:
            patched.setattr(workflow.logger, "warning", lambda text, *values: said.append(text % values))
            patched.setattr(ConfigWorkflow, "run", lambda self: None)
            built.run()
        return said

    return start


@pytest.mark.parametrize(
    ("run_id", "overlay", "setting", "value", "elsewhere"),
    [
        ("training_stage2", "mean_teacher", "stage1#max_epochs", 3, "train with training_stage1"),
        ("training_stage2", "mean_teacher", "stage1#loss#negatives", "present", "train with training_stage1"),
        ("training_stage1", "mean_teacher", "max_epochs", 3, "train with training_finetune or training_stage2"),
        ("training_stage1", "mean_teacher", "train#method#ema_decay", 0.5, "train with training_stage2"),
        ("training_finetune", "mean_teacher", "val_interval", 2, "train with training_stage2"),
        ("run", "mean_teacher", "finetune#best#min_subjects", 2, "train with training_finetune"),
        ("training_stage2", "supervised", "ema_decay", 0.5, "choose a method that reads it"),
    ],
)
def test_a_setting_that_the_run_does_not_read_is_warned_of(
    run_id: str, overlay: str, setting: str, value: Any, elsewhere: str, warned: Callable[..., list[str]]
) -> None:
    (line,) = warned(run_id, overlay, **{setting: value, "seed": 1})
    assert line.startswith(f"{run_id} does not read {setting}: ") and elsewhere in line and "\n" not in line


def test_settings_that_are_read_and_those_of_overlays_are_not_warned_of(
    warned: Callable[..., list[str]], tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"patience": 4, "early_stopping_patience": "@patience"}))
    read = {
        "patience": 3,
        "geometry": {"rotate_deg": 3.0},
        "intensity#curve_prob": 0.1,
        "slice_size": [64, 32],
        "train#lr_scheduler#gamma": 0.5,
        "train#trainer#max_epochs": 2,
        "validate#best#metric": "val_dice",
        "stage1#loss#activation": "softmax",  # of the prompt map, too
        "num_workers": 1,
        "stage1_checkpoint": str(tmp_path / "none.pt"),
    }
    assert warned("training_stage2", "mean_teacher", str(own), **read) == []
    assert warned("training_stage1", **{"stage1#lr_layer_decay": 0.5, "stage1#image_encoder#depth": 1}) == []
    assert warned("run", **{"stage1#max_epochs": 2, "max_epochs": 2, "ema_decay": 0.5}) == []


@pytest.mark.parametrize("setting", ["stage1#max_epochs", "max_epochs"])
def test_what_another_run_of_the_same_command_reads_is_not_warned_of(setting, run_tiny, tmp_path, monkeypatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(workflow.logger, "warning", lambda *values: said.append(values))
    monkeypatch.setattr(ConfigWorkflow, "run", lambda self: None)
    for run_id in ("training_stage1", "training_stage2"):
        run_tiny(run_id, tmp_path, **{setting: 2, "also_read_by": ("training_stage1", "training_stage2")})
    assert said == []


def test_a_second_training_in_one_folder_is_refused_and_the_lock_of_the_first_goes(run_tiny, tmp_path, monkeypatch):
    """Their checkpoints and weights would be those of either."""
    beside = []

    def run(self):
        assert (tmp_path / "run" / LOCK).is_file()
        if not beside:
            beside.append(None)
            with pytest.raises(ValueError, match=r"another process trains in this folder.*choose another"):
                run_tiny("training_stage2", tmp_path / "run")

    monkeypatch.setattr(ConfigWorkflow, "run", run)
    run_tiny("training_stage2", tmp_path / "run")
    assert beside
    run_tiny("training_stage2", tmp_path / "run")


def test_two_methods_are_refused_and_one_that_builds_on_the_other_is_not() -> None:
    with pytest.raises(ValueError, match=r"ucmt\.json and .*mean_teacher\.json name different methods.*leave one"):
        build("ucmt", "small", "mean_teacher")
    assert build("ucmt", "ucmt_decoded").parser["train#method#_target_"].endswith("DecodedUCMT")
    assert build("dusss_provider", "mt_decoded").parser["train#method#_target_"].endswith("DecodedPseudoLabels")


@pytest.mark.parametrize("prompted", ["cps4", "cps4_paper"])
def test_a_method_with_prompts_after_one_that_turns_them_off_is_refused(prompted: str) -> None:
    with pytest.raises(ValueError, match=rf"ucmt\.json and .*{prompted}\.json name different methods.*leave one"):
        build("ucmt", prompted)
    with pytest.raises(ValueError, match=rf"mt_ce\.json and .*{prompted}\.json name different methods"):
        build("mt_ce", prompted)
    assert build(prompted, "small").asks_for_prompts and not build(prompted, "mean_teacher").asks_for_prompts


def test_a_variant_without_its_method_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"If bcp_paper is a variant of bcp, name bcp before it"):
        build("bcp_paper")


def test_no_reason_of_a_setting_is_offered_as_a_setting() -> None:
    with pytest.raises(ValueError, match="did you mean learning_rate") as caught:
        build(lerning_rate=0.5)
    assert "_meta_" not in str(caught.value)


def test_a_missing_stage_1_is_said_where_one_would_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("cps4_monai.workflow.logger.info", lambda text, *_: said.append(text))
    CPS4Workflow(config_file=["train.json", "methods/supervised.json", "evaluate.json"])
    assert said == []
    build("supervised")
    assert said == ["the method asks for no prompts (train#provider is null): no stage 1 is trained"]
