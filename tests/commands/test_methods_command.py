"""`cps4 methods`: the list, one method, and both for programs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.methods import methods

FOLDER = find_bundle_root() / "configs" / "methods"


def test_the_list_has_every_overlay_with_its_facts_and_fits_a_terminal():
    result = CliRunner().invoke(methods, [])
    assert result.exit_code == 0, result.output
    assert all(
        f"  {path.stem}\n" in result.output or f"--overlay {path.stem}" in result.output for path in FOLDER.iterdir()
    )
    assert (
        "source: Bai et al., CVPR 2023" in result.output
        and "cost: three decoders on one encoder; about twice" in result.output
    )
    assert max(map(len, result.output.splitlines())) <= 110


def test_the_list_for_programs_holds_the_same():
    listed = json.loads(CliRunner().invoke(methods, ["--json"]).output)
    assert [entry["name"] for entry in listed] == sorted(path.stem for path in FOLDER.iterdir())
    assert set(listed[0]) == {"name", "stages", "line", "source", "cost", "needs", "after", "classes"}


def test_one_method_shows_options_with_defaults_and_the_overlay():
    output = CliRunner().invoke(methods, ["mc_net_paper"]).output
    assert "to train: --overlay mc_net --overlay mc_net_paper" in output
    assert "detach_targets = false (true)  train#method#detach_targets" in output
    assert "no gradient flows into the sharpened predictions" in output
    assert '"train#method#sum_decoders": true' in output
    told = json.loads(CliRunner().invoke(methods, ["mc_net_paper", "--json"]).output)
    written = json.loads((FOLDER / "mc_net_paper.json").read_text())
    assert told["overlay"] == {key: value for key, value in written.items() if key != "_meta_"}
    assert {"name", "setting", "default", "value", "meaning"} == set(told["options"][0])


def test_a_path_is_shown_too_and_an_unknown_name_lists_the_known_ones(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"train#method#text_weight": 0.25}))
    assert "text_weight = 0.25 (0.5)" in CliRunner().invoke(methods, [str(path)]).output
    result = CliRunner().invoke(methods, ["bpc"])
    assert result.exit_code == 2 and "mean_teacher" in result.output


def test_only_overlays_of_the_bundle_are_trained_by_their_name(tmp_path):
    path = tmp_path / "methods" / "foo.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"train#method#text_weight": 0.25}))
    assert f"to train: --overlay {path}\n" in CliRunner().invoke(methods, [str(path)]).output
    for given in ("mean_teacher", str(FOLDER / "mean_teacher.json")):
        assert "to train: --overlay mean_teacher\n" in CliRunner().invoke(methods, [given]).output


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_is_no_overlay_is_one_line(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    result = CliRunner().invoke(methods, [str(path)])
    assert result.exit_code == 1 and "broken.json" in result.output and "Traceback" not in result.output
