"""``train.json`` reads like a bundle of the zoo; overlays state differences, each with its reason, in any order."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from cps4_monai.known_settings import node_at, unread_settings
from cps4_monai.method_list import method_of

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs"
SIZES = ("small", "demo", "study", "study_pretrained", "release", "pretrained", "as_trained", "any_contrast")
METHODS = sorted(path.stem for path in (CONFIGS / "methods").glob("*.json"))
PAPERS = [name for name in METHODS if name.endswith("_paper") and name != "cps4_paper"]  # rates and sizes as published
OVERLAYS = (*SIZES, "paper_size", "multi_gpu_train", *(f"methods/{name}" for name in METHODS))
# MONAI Label writes a device of its own into a config that is merged before this one; a mapping is replaced as a whole.
SAME_ON_PURPOSE = {
    ("multi_gpu_train", "device"),
    ("study_pretrained", "geometry#rotate_deg"),
    ("release", "features"),  # it and the next may be laid over overlays of sizes
    ("as_trained", "features"),
}
_MISSING = object()


def read(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{name}.json").read_text("utf-8"))


def merged(*names: str) -> dict[str, Any]:
    config = ConfigParser.load_config_files([str(CONFIGS / f"{name}.json") for name in names])
    return {key: value for key, value in config.items() if key != "_meta_"}


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from texts(item)


def leaves(setting: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Settings within a mapping that is no object; an object is one setting, since it replaces another."""
    if isinstance(value, dict) and "_target_" not in value:
        for key, item in value.items():
            yield from leaves(f"{setting}#{key}", item)
    else:
        yield setting, value


def settings(name: str) -> dict[str, Any]:
    return {key: value for key, value in read(name).items() if key != "_meta_"}


def test_train_json_is_short_and_holds_values_not_code() -> None:
    lines = (CONFIGS / "train.json").read_text("utf-8").splitlines()
    code = [text for text in texts(read("train")) if text.startswith("$")]
    assert len(lines) < 150 and max(map(len, lines)) <= 120
    assert len(code) <= 20 and max(map(len, code)) <= 80


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_states_differences_only(name: str) -> None:
    before = method_of(CONFIGS / f"{name}.json", CONFIGS.parent).after if name.startswith("methods/") else None
    base = merged("train", *([] if before is None else [f"methods/{before}"]))
    for key, value in settings(name).items():
        for setting, stated in leaves(key, value):
            same = node_at(base, setting, _MISSING) == stated
            assert not same or (name, setting) in SAME_ON_PURPOSE, f"{setting} is {stated} in train.json, too"


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_difference_has_its_reason_and_each_reason_its_difference(name: str) -> None:
    why = read(name)["_meta_"]["why"]
    assert all(len(reason) > 5 for reason in why.values())
    assert [setting for setting, reason in why.items() if reason in ("the method", "minutes")] == [], "no reasons"
    assert [reason for reason in why.values() if re.search(r"docs/|\bpage\b", reason)] == [], (
        "say it, not where it stands"
    )
    of = {key: [r for r in why if r in ("", key) or key.startswith(f"{r}#")] for key in settings(name)}
    assert [key for key, reasons in of.items() if not reasons] == [], "say why in _meta_: {why: {id: reason}}"
    assert set(why) - {""} == {reason for reasons in of.values() for reason in reasons} - {""}


@pytest.mark.parametrize(("method", "size"), itertools.product([m for m in METHODS if m not in PAPERS], SIZES))
def test_the_order_of_a_method_and_a_size_does_not_matter(method: str, size: str) -> None:
    assert merged("train", f"methods/{method}", size) == merged("train", size, f"methods/{method}")


@pytest.mark.parametrize("name", METHODS)
def test_what_is_made_before_stage_1_asks_for_no_file_of_it(name: str) -> None:
    before = method_of(CONFIGS / "methods" / f"{name}.json", CONFIGS.parent).after
    config = merged("train", *(f"methods/{overlay}" for overlay in (before, name) if overlay))
    file = ["stage1_checkpoint"]
    assert unread_settings(config, ["check_stage2"], file) == file != unread_settings(config, ["run"], file)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.json")), ids=lambda path: path.stem)
def test_nothing_is_referred_to_by_its_place_in_a_list(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    named = re.compile(r"(#|::)\d+\b")
    references = [name for text in texts(content) for name in re.findall(r"@([\w#:]+)", text) if text[:1] in "@$"]
    assert [name for name in (*content, *references) if named.search(name)] == []


def test_words_about_an_overlay_reach_no_run(run_tiny: Any, tmp_path: Path) -> None:
    parser = run_tiny("training_stage2", tmp_path, ("mean_teacher",), run=False).parser
    assert "why" not in parser["_meta_"] and parser["_meta_#version"]
