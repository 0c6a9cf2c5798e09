"""Whether two runs are the same experiment: which settings decide a result, and which differences count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.fingerprint import (
    STAGE1_RESULT,
    depends_on,
    differences,
    fingerprint,
    same_result,
)
from cps4_monai.workflow import resolve_config


def merged(*overlays: str, **settings: Any) -> dict[str, Any]:
    root = find_bundle_root()
    files = [str(resolve_config(name, root)) for name in ("train.json", *overlays)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    for key, value in settings.items():
        parser[key] = value
    return parser.get()


def changed(run_id: str, **settings: Any) -> set[str]:
    return set(differences(effective(merged(), run_id), effective(merged(**settings), run_id)))


def effective(config: dict[str, Any], run_id: str) -> dict[str, Any]:
    return fingerprint(config, run_id, merged())


@pytest.mark.parametrize(
    ("settings", "stage1", "stage2"),
    [
        ({"seed": 3}, True, True),
        ({"labeled_subjects": ["sub-001"]}, True, True),
        ({"slice_size": [64, 32]}, True, True),
        ({"stage1#loss#pixel_weight": 0.0}, True, False),
        ({"stage1#max_epochs": 3}, True, False),
        ({"prompt_map#presence_threshold": None}, True, True),
        ({"train#method#text_weight": 0.0}, False, True),
        ({"max_epochs": 3}, False, True),
        ({"features": [4, 8]}, False, True),
        ({"learning_rate": 0.5}, False, True),
        ({"cache_dir": "elsewhere", "output_dir": "there", "device_name": "cpu", "num_workers": 9}, False, False),
        ({"log_every": 7, "show_progress": False, "datalist": "moved.json"}, False, False),
    ],
)
def test_a_setting_counts_where_it_decides_the_result(settings: dict[str, Any], stage1: bool, stage2: bool) -> None:
    assert bool(changed("training_stage1", **settings)) == stage1
    assert bool(changed("training_stage2", **settings)) == stage2


def test_what_a_run_id_itself_runs_counts() -> None:
    config = merged()
    other = {**config, "training_stage1": ["$@stage1#validate#evaluator.run()"]}
    assert differences(effective(config, "training_stage1"), effective(other, "training_stage1"))


def test_tidying_up_the_bundles_wiring_changes_no_result() -> None:
    before = merged()
    text = json.dumps(before).replace("cps4_monai.assembly.stage2.", "cps4_monai.moved.").replace("'/cache'", "'/kept'")
    tidied = json.loads(text)
    tidied["train"]["handlers"] = [{"_target_": "StatsHandler"}, {"_target_": "monai.handlers.MLFlowHandler"}]
    for run_id in ("training_stage1", "training_stage2"):
        ours, theirs = fingerprint(before, run_id, before), fingerprint(tidied, run_id, tidied)
        assert differences(ours, theirs) == {}


def test_an_expression_or_a_class_of_an_overlay_is_a_choice() -> None:
    chosen = {
        "train#method#_target_": "cps4_monai.methods.MeanTeacher",
        "train#lr_scheduler#milestones": "$[1, 2]",
        "train#method#deployed": "student",
    }
    for setting, value in chosen.items():
        assert setting in changed("training_stage2", **{setting: value})


@pytest.mark.parametrize(("method", "needed"), [("cps4", True), ("mt_ce", False), ("supervised", False)])
def test_stage_1_is_needed_where_stage_2_reads_its_result(method: str, needed: bool) -> None:
    assert depends_on(merged(f"methods/{method}"), "training_stage2", STAGE1_RESULT) == needed


def test_an_argument_that_only_one_side_has_counts_unless_it_is_the_default() -> None:
    plain = effective(merged(), "training_stage1")
    for value, counts in ((0.0, True), (0.5, True), (1.0, False)):  # absent_weight is 1 where it is not given
        config = merged(**{"stage1#loss#absent_weight": value})
        found = effective(config, "training_stage1")
        for pair in ((plain, found), (found, plain)):
            assert bool(differences(*pair, config)) == counts != same_result(*pair, config)
        prefixed = [{f"training_stage1: {key}": item for key, item in one.items()} for one in (plain, found)]
        assert bool(differences(*prefixed, config)) == counts


def same_as_shipped(**settings: Any) -> bool:
    """Whether stage 2 with these settings counts as the one of train.json, whichever of the two was first."""
    config = merged(**settings)
    plain, found = effective(merged(), "training_stage2"), effective(config, "training_stage2")
    assert same_result(plain, found, config) == same_result(found, plain, config)
    return same_result(plain, found, config)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"learning_rate_factors": {"encoder": 0.0}}, False),
        ({"learning_rate_factors": {}}, False),  # as stated as null
        ({"level_thresholds": {"gap_penalty": 0}}, False),
        ({"level_thresholds": {"gap_penalty": 1.0, "step_mm": [9.0, 28.0]}}, True),  # their defaults
        ({"level_thresholds": None}, False),
        ({"geometry#cut_prob": 0.0, "intensity#tissues": []}, True),
        ({"geometry#flip_prob": [0.0, 0.5]}, False),
        ({"intensity#low_resolution_zoom": []}, False),  # default: 0.5 to 1
    ],
)
def test_a_zero_within_a_plain_mapping_counts_unless_it_is_the_default(settings: dict[str, Any], same: bool) -> None:
    assert same_as_shipped(**settings) == same


def test_a_zero_beside_other_entries_of_a_plain_mapping_counts() -> None:
    for mapping, entry in (("learning_rate_factors", "encoder"), ("level_thresholds", "gap_penalty")):
        one, two = {f"{mapping}#skip_penalty": 0.5}, {f"{mapping}#skip_penalty": 0.5, f"{mapping}#{entry}": 0}
        assert not same_result(one, two) and not same_result(two, one)
        of_stage1 = [{f"training_stage1: {key}": value for key, value in side.items()} for side in (one, two)]
        assert not same_result(*of_stage1)


def test_a_mapping_in_place_of_a_reference_counts_though_it_states_defaults() -> None:
    """Without it, stage 1 has the geometry of stage 2, which is not the class's."""
    config = merged(**{"stage1#geometry": {"affine_prob": 0.9}})
    assert not same_result(effective(merged(), "training_stage1"), effective(config, "training_stage1"), config)


def test_a_setting_that_came_later_and_is_off_changes_no_earlier_result_wherever_it_stands() -> None:
    for later in (
        {"new#strength": 0},
        {"level_thresholds#gap_penalty": 0},
        {"level_thresholds": {}},
        {"new#on": False},
    ):
        assert same_result({"a": 1}, {"a": 1, **later}) and same_result({"a": 1, **later}, {"a": 1})
    assert same_result({"new#old": 1}, {"new#old": 1, "new#strength": 0.0})
    assert not same_result({"new": None}, {"new#strength": 0.0}) and not same_result({"new#strength": 0}, {"new": {}})


def test_a_handler_of_an_overlay_is_a_choice() -> None:
    early = {"_target_": "cps4_monai.handlers.EarlyStop", "evaluator": "@validate#evaluator", "patience": 1}
    handlers = merged()["train"]["handlers"]
    assert changed("training_stage2", **{"train#handlers": [*handlers, early]})
    assert not changed("training_stage2", **{"train#handlers": list(handlers)})


def test_an_option_that_is_new_and_off_changes_no_earlier_result() -> None:
    assert differences({"a": 1}, {"a": 1, "b": None, "c": 0.0, "d": False, "e": []}) == {}
    assert differences({"a": 1}, {"a": 1, "b": 2}) == {"b": (None, 2)}
    assert differences({"a": 1, "b": 2}, {"a": 1}) == {"b": (2, None)}
    assert differences({"a": 0}, {"a": None}) == {"a": (0, None)}


def test_settings_are_plain_json_and_an_unknown_run_id_is_named(tmp_path: Path) -> None:
    found = effective(merged(), "training_stage2")
    assert json.loads(json.dumps(found)) == found
    assert found["train#method#ema_decay"] == 0.99, "a reference stands with its value"
    with pytest.raises(KeyError, match="no run id 'training'"):
        effective(merged(), "training")
