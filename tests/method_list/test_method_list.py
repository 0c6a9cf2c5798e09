"""What `cps4 methods` says is what overlays and classes say, for those that are shipped and for anybody's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.known_settings import node_at
from cps4_monai.method_list import list_methods, method_of, options_of
from cps4_monai.method_list.entries import class_of, first_line
from cps4_monai.method_list.options import meanings_of

ROOT = find_bundle_root()
STAGE2 = {"bcp", "graphcl", "mc_net", "mean_teacher", "ss_net", "supervised", "ucmt", "unimatch_v2"}


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in list_methods(ROOT)}


def written(folder: Path, name: str, **overlay: object) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(overlay), encoding="utf-8")
    return path


def test_every_overlay_is_listed_once_and_the_papers_systems_are_methods_of_stage_2(entries):
    assert entries.keys() == {path.stem for path in (ROOT / "configs" / "methods").glob("*.json")}
    assert {name for name, entry in entries.items() if entry.stages == "2" and entry.after is None} >= STAGE2


def test_every_class_that_an_overlay_names_says_what_it_is_and_where_it_comes_from(entries):
    """This one fails for a new method whose class has no docstring or no `source`: docs/add-a-method.md."""
    silent = {
        name: target
        for name, entry in entries.items()
        for target in entry.classes.values()
        if not (getattr(class_of(target), "__doc__", "") or "").strip() or not vars(class_of(target)).get("source")
    }
    assert silent == {}
    assert [name for name, entry in entries.items() if not entry.source] == []
    assert all(entry.line and len(entry.line) < 300 for entry in entries.values())


def test_cost_and_needs_are_those_of_class_and_overlay(entries):
    assert entries["ucmt"].cost == class_of("cps4_monai.methods.UCMT").budget_notes
    ucmt = " ".join(entries["ucmt"].needs)
    assert "StudentPair" in ucmt and "no stage 1" in ucmt and "optimiser steps a batch: 2" in ucmt and "teacher" in ucmt
    assert "stage 1: its prompt maps" in entries["cps4"].needs and "labeled slices only" in entries["supervised"].needs
    assert not any("teacher" in need for need in entries["mc_net"].needs)
    assert any("decoded" in need for need in entries["mt_decoded"].needs)
    assert entries["clip"].stages == "1" and any("captions" in need for need in entries["clip"].needs)
    for name in ("bcp", "graphcl"):
        assert any(need.startswith("an even number of labeled slices") for need in entries[name].needs)
    assert any("multiples of 16" in need for need in entries["ucmt"].needs)


def test_of_stage_1_each_method_needs_what_its_class_says(entries):
    of_stage1 = {name: [n for n in entry.needs if n.startswith("stage 1")] for name, entry in entries.items()}
    assert of_stage1["dusss"] == of_stage1["dusss_paper"] == ["stage 1: its frozen image side"]
    assert of_stage1["vessa"] == ["stage 1, trained with the overlay vessa: its assistant"]
    assert of_stage1["cps4"] == of_stage1["cps4_levers"] == ["stage 1: its prompt maps"]
    assert of_stage1["dusss_no_text"] == of_stage1["ucmt"] == [] and "no stage 1" in entries["dusss_no_text"].needs
    assert of_stage1["cps4_plus"] == ["stage 1"], "no prompt map joins its batches"


@pytest.mark.parametrize("name", ["clip", "medclip", "mgca", "egma_mask_gaze", "egma_no_gaze", "dusss_provider"])
def test_an_objective_is_called_by_its_name_never_by_that_of_its_paper_alone(entries, name):
    entry = entries[name]
    objective = node_at(entry.config, "stage1#method#objective")
    assert "objective on class prompts" in objective and entry.line.startswith(objective)
    own = entry.classes.get("stage1#method")
    assert entry.line == (objective if own is None else f"{objective}. {first_line(own)}")


def test_a_variant_stands_after_its_method_with_what_it_changes(entries):
    paper = entries["ucmt_paper"]
    assert paper.after == "ucmt" and paper.source == entries["ucmt"].source and paper.cost == entries["ucmt"].cost
    assert "dice_weight 1.0" in paper.line
    assert entries["cps4_no_gate"].line == "cps4, with prompt_map#presence_threshold null"
    assert entries["cps4_levers"].after is None  # a class of its own
    assert "AlignedResUNet" in " ".join(entries["graphcl_aligned"].needs)


def test_an_overlay_that_is_a_part_of_another_is_no_variant_of_it(tmp_path):
    """`dusss_provider` is the first stage of `dusss`, and nothing is added to it."""
    (tmp_path / "configs" / "methods").mkdir(parents=True)
    (tmp_path / "configs" / "train.json").write_bytes((ROOT / "configs" / "train.json").read_bytes())
    first = {"stage1#method": {"_target_": "cps4_monai.methods.AttentionPretraining"}}
    second = {"train#method": {"_target_": "cps4_monai.methods.UCMT"}}
    written(tmp_path / "configs" / "methods", "both", **first, **second)
    written(tmp_path / "configs" / "methods", "both_first", **first)
    written(tmp_path / "configs" / "methods", "both_else", **{"ema_decay": 0.5})
    listed = {entry.name: entry for entry in list_methods(tmp_path)}
    assert listed["both"].stages == "1+2" and listed["both_first"].stages == "1"
    assert listed["both_first"].after is None and listed["both_else"].after == "both"
    assert listed["both_first"].line.startswith("Loss of attention logits and label")


def test_a_method_of_somebody_else_is_listed_by_its_overlay_alone(tmp_path, monkeypatch):
    (tmp_path / "someones_method.py").write_text(
        "from cps4_monai.methods import MeanTeacher\n"
        "class Own(MeanTeacher):\n"
        '    """Agreement of :class:`MeanTeacher`, otherwise.\n\n'
        "    Args:\n"
        "        strength: how strong,\n"
        "            in nats.\n"
        '    """\n'
        '    source = "Somebody, 2030"\n'
        '    needs = ("a gold standard",)\n'
        '    budget_notes = ("three passes",)\n'
        "    def __init__(self, student, optimizer, strength: float = 2.0, **more):\n"
        "        super().__init__(student, optimizer, **more)\n"
        "class Silent(MeanTeacher):\n"
        "    pass\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    method = {"_target_": "someones_method.Own", "student": "@train#network", "strength": "@strength"}
    overlay = {"train#provider": None, "strength": 5.0, "train#method": method}
    entry = method_of(written(tmp_path, "own", **overlay), ROOT)
    assert entry.line == "Agreement of MeanTeacher, otherwise" and entry.source == "Somebody, 2030"
    assert entry.cost == ("three passes",) and "a gold standard" in entry.needs
    (strength,) = [option for option in options_of(entry) if option.name == "strength"]
    assert (strength.default, strength.value, strength.setting) == (2.0, 5.0, "strength")
    assert strength.meaning == "how strong, in nats."
    silent = method_of(written(tmp_path, "silent", **{"train#method": {"_target_": "someones_method.Silent"}}), ROOT)
    assert silent.source == ""  # that of MeanTeacher is not its own


def test_an_objective_of_stage_1_has_its_overlays_words(tmp_path):
    overlay = {
        "stage1#loss": {"_target_": "cps4_monai.losses.presence.PresenceLoss"},
        "stage1#method#objective": "an objective on class prompts",
        "stage1#method#substitution": "gaze: boxes of the label",
    }
    entry = method_of(written(tmp_path, "objective", **overlay), ROOT)
    assert entry.stages == "1" and entry.line == "an objective on class prompts" and "Radford" in entry.source
    assert "stand-ins: gaze: boxes of the label" in entry.needs
    assert node_at(entry.config, "train#method#_target_") == "cps4_monai.methods.CPS4"


def test_a_class_that_cannot_be_imported_is_said_so_and_breaks_nothing(tmp_path):
    entry = method_of(written(tmp_path, "lost", **{"train#method": {"_target_": "no_such_package.Method"}}), ROOT)
    assert "no_such_package.Method" in entry.line and options_of(entry) == []


def test_options_are_the_constructors_with_defaults_settings_and_meanings(entries):
    options = {option.name: option for option in options_of(entries["bcp"])}
    assert {"pretrain_fraction", "largest_component", "training_teacher", "ema_decay"} <= options.keys()
    assert "student" not in options
    fraction, decay = options["pretrain_fraction"], options["ema_decay"]
    assert (fraction.default, fraction.value, fraction.setting) == (0.25, 0.25, "pretrain_fraction")
    assert decay.setting == "ema_decay" and decay.value == 0.99 and "warm-up" in decay.meaning  # of TeacherStudent
    assert options["largest_component"].setting == "train#method#largest_component"
    paper = {option.name: option for option in options_of(entries["bcp_paper"])}
    assert paper["largest_component"].value is True and paper["largest_component"].default is False
    everywhere = [o for e in entries.values() for o in options_of(e)]
    json.dumps([o.to_dict() for o in everywhere])
    assert {
        o.name for e in ("bcp", "graphcl", "mc_net", "ss_net") for o in options_of(entries[e]) if not o.meaning
    } == set()


def test_meanings_end_where_the_next_argument_or_section_begins():
    meanings = meanings_of(class_of("cps4_monai.methods.MCNet"))
    assert meanings["consistency_weight"] == "of the sum over the six pairs."
    assert "batch_statistics" in meanings and not any("Raises" in text for text in meanings.values())


def test_an_overlay_may_say_its_own_line_where_its_class_does_not_tell_it_from_others(entries, tmp_path):
    lines = [entries[name].line for name in ("cps4", "mt_ce", "cps4_plus", "mt_decoded")]
    assert len(set(lines)) == 4 and lines[1].startswith("Mean Teacher")
    own = written(tmp_path, "mine", _meta_={"line": "mine in a line"}, **{"train#provider": None})
    assert method_of(own, ROOT).line == "mine in a line"
    with pytest.raises(ValueError, match=r"mine.json: 'line' in _meta_ is \['a'\]; expected a line of text"):
        method_of(written(tmp_path, "mine", _meta_={"line": ["a"]}), ROOT)
