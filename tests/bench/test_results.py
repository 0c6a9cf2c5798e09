"""What stands in a study's tables of stage 1, of files written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cps4_monai.bench.prompt_map_section import prompt_map_blocks
from cps4_monai.bench.results import CellResult, StudyResults

MAPS = {f"prompt_map_dice{end}": value for end, value in (("", 0.8), ("_a", 0.7), ("_b", 0.8), ("_c", 0.6))}


@pytest.fixture
def results(tmp_path: Path):
    """Function that makes a study of one cell whose stage 1 logged these values after each validation."""

    def make(*epochs: dict[str, float], section: str = "validation") -> StudyResults:
        log = tmp_path / "stage1" / "one" / "stage1" / "metrics.csv"
        log.parent.mkdir(parents=True)
        lines = [
            f"stage1,{number},{100 * number},{name},{value}"
            for number, epoch in enumerate(epochs, start=1)
            for name, value in epoch.items()
        ]
        log.write_text("\n".join(["stage,epoch,iteration,name,value", *lines]) + "\n")
        (log.parents[1] / "done.json").write_text('{"seconds": {"training": 60.0, "validation": 1.0, "test": 1.0}}')
        nothing = dict.fromkeys(("evaluation", "decoded", "done", "run", "task"))
        cell = CellResult("a", "vessa", "5", 0, tmp_path / "cells" / "a", log.parents[1], **nothing)
        return StudyResults({"cells": [{"method": "vessa", "title": "VESSA"}]}, tmp_path, section, (cell,), ())

    return make


def test_an_assistant_is_scored_by_its_label_maps_at_the_weights_that_were_kept(results):
    worse = {"prompt_map_dice": 0.3, "prompt_map_dice_b": 0.3, "pointing_game": 0.1, "level_share": 0.2}
    best = {**MAPS, "pointing_game": 0.9, "level_share": 0.85}
    study = results(worse, best, worse)
    maps = study.prompt_maps
    assert dict(zip(maps["convention"], maps["dice"], strict=True)) == {"a": 0.7, "b": 0.8, "c": 0.6}
    assert set(maps["map"]) == {"prompt_map"} and set(maps["subject"]) == {"mean"} and set(maps["folder"]) == {"one"}
    assert study.localisation[["pointing_game", "level_share"]].to_numpy().tolist() == [[0.9, 0.85]]


def test_the_pointing_game_has_a_column_for_each_structure(results):
    study = results({**MAPS, "pointing_game": 0.5, "pointing_game_L5": 0.25, "pointing_game_L5/S": 0.75})
    assert study.pointing_game.loc["one"].to_dict() == {"L5": 0.25, "L5/S": 0.75}


def test_of_equal_maps_the_later_weights_were_kept(results):
    epochs = [{"prompt_map_dice": 0.0, "pointing_game": share, "level_share": share} for share in (0.1, 0.2, 0.3)]
    assert results(*epochs).localisation["pointing_game"].tolist() == [0.3]


@pytest.mark.parametrize(("mode", "expected"), [("max", 0.1), ("min", 0.4)])
def test_weights_chosen_by_another_metric_are_those_that_it_chose(results, tmp_path, mode, expected):
    """The first epoch has the best map; the pointing game chose the second, the loss (the smallest) the third."""
    rows = [(0.9, 0.3, 2.0, 0.3), (0.5, 0.8, 3.0, 0.1), (0.6, 0.7, 1.0, 0.4)]
    names = ("prompt_map_dice", "pointing_game", "loss", "level_share")
    study = results(*[dict(zip(names, row, strict=True)) for row in rows])
    metric = {"max": "pointing_game", "min": "loss"}[mode]
    settings = {"stage1#validate#best#metric": metric, "stage1#validate#best#mode": mode}
    record = tmp_path / "stage1" / "one" / "stage1" / "run.json"
    record.write_text(json.dumps({"starts": [{"settings": {}}, {"settings": settings}]}))
    assert study.localisation["level_share"].tolist() == [expected]


def test_what_was_seen_in_training_is_no_score_on_test(results):
    """An assistant has its row on the test patients, too, with what validation knows of it and no Dice."""
    study = results({**MAPS, "pointing_game": 0.9, "pointing_game_L5": 0.25, "level_share": 0.85}, section="test")
    assert study.prompt_maps["dice"].isna().all()
    of_maps, of_structures = prompt_map_blocks(study)
    ((title, _, _, dice, *_, pointing_game, _, right),) = of_maps.rows
    assert (title.text, dice.text, pointing_game.text, right.text) == ("VESSA", "–", "0.900", "0.850")
    assert of_structures.columns == ("pointing game of", "labeled", "L5") and of_structures.rows[0][2].text == "0.25"


def test_a_stage_1_without_localisation_has_no_row_of_it(results):
    study = results(MAPS)
    assert study.localisation.empty and len(study.prompt_maps) == 3
