"""The exported bundle as the model zoo's formatting hooks want it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from cps4_monai.export.layout import lay_out


def test_every_json_of_an_export_has_four_spaces_and_a_newline(exported_bundle: Path) -> None:
    files = sorted(exported_bundle.rglob("*.json"))
    assert len(files) > 15
    for path in files:
        text = path.read_text("utf-8")
        assert text == json.dumps(json.loads(text), indent=4) + "\n", path.name


def test_a_module_has_one_docstring(exported_bundle: Path) -> None:
    """The zoo's hook check-docstring-first takes a string after a constant for a second one."""
    for path in exported_bundle.rglob("*.py"):
        lines = ast.parse(path.read_text("utf-8")).body[1:]
        values = [line.value for line in lines if isinstance(line, ast.Expr)]
        assert not [value for value in values if isinstance(value, ast.Constant)], path.name


def test_python_of_an_export_is_as_the_zoos_black_has_it(tmp_path: Path) -> None:
    pytest.importorskip("black", reason="black of the extra `zoo` is not installed")
    (tmp_path / "a.py").write_text("call(\n    1,\n    2,\n)\n", encoding="utf-8")
    lay_out(tmp_path)
    assert (tmp_path / "a.py").read_text("utf-8") == "call(1, 2)\n"


def test_laying_out_keeps_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"b": 1, "a": [1.50, "ü"]}', encoding="utf-8")
    lay_out(tmp_path)
    text = (tmp_path / "a.json").read_text("utf-8")
    assert text.endswith("}\n") and list(json.loads(text)) == ["b", "a"] and json.loads(text)["a"] == [1.5, "ü"]


def test_imports_of_an_export_are_sorted_as_the_zoo_has_it(exported_bundle: Path, tmp_path: Path) -> None:
    """The zoo runs isort in its own checkout, where no folder is called as this package; the export ran in ours."""
    isort = pytest.importorskip("isort", reason="isort of the extra `zoo` is not installed")
    settings = isort.Config(
        profile="black", line_length=120, known_first_party=frozenset({"models"}), directory=str(tmp_path)
    )
    wrong = [path.name for path in exported_bundle.rglob("*.py") if not isort.check_file(path, config=settings)]
    assert not wrong
