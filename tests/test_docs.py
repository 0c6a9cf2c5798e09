"""What the documentation names exists: functions, tests, settings and their values, links, commands."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from monai.bundle import ConfigParser
from monai.utils import optional_import

from cps4_monai.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundle" / "configs"
EQUATIONS = ROOT / "docs" / "equations.md"


def tracked_pages() -> list[Path]:
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):  # a source archive without git
        names = [str(p.relative_to(ROOT)) for folder in ("docs", "bundle") for p in (ROOT / folder).rglob("*.md")]
        names += [p.name for p in ROOT.glob("*.md")]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


PAGES = tracked_pages()


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def defines(file: Path, name: str) -> bool:
    """Whether a file defines ``function``, ``Class`` or ``Class.method`` (a nested definition is found by its path)."""
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == part]
        if not found:
            return False
        body = found[0].body
    return True


def named_symbols() -> list[str]:
    found = re.findall(r"`([\w/]+\.py::[\w.]+)`", "\n".join(page.read_text(encoding="utf-8") for page in PAGES))
    return sorted(set(found))


@pytest.mark.parametrize("symbol", named_symbols())
def test_every_function_and_test_that_the_pages_name_exists(symbol):
    path, name = symbol.split("::")
    assert (ROOT / path).is_file(), path
    assert defines(ROOT / path, name), symbol


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_resolve(page):
    links = re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    )
    local = [link.split("#")[0] for link in links if not re.match(r"\w+:", link)]
    assert [link for link in local if link and not (page.parent / link).exists()] == []


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as the usual hosts of repositories make them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_a_heading_find_it(page):
    links = re.findall(r"\]\((?!\w+:)([^)\s#]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    lost = [
        f"{file}#{anchor}" for file, anchor in links if anchor not in anchors((page.parent / file) if file else page)
    ]
    assert lost == []


def test_the_version_is_the_same_everywhere():
    from cps4_monai import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert json.loads((ROOT / "bundle/configs/metadata.json").read_text(encoding="utf-8"))["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_of_the_repository_that_a_page_names_exist(page):
    named = re.findall(r"`((?:cps4_monai|bundle|tests|docs|benchmarks)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    example = {"cps4_monai/methods/entropy_minimisation.py", "bundle/configs/methods/entropy_minimisation.json"}
    made_later = {"bundle/models/model.pt", *example}
    assert sorted({name for name in named if not (ROOT / name).exists()} - made_later) == []


def shown_commands() -> list[tuple[str, str]]:
    """(page, command line) of every `cps4 ...` in code blocks, and inline where it begins with a command."""
    shown = []
    for page in PAGES:
        lines = [line for block in code_blocks(page) for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`(cps4 [^`\n]+)`", page.read_text(encoding="utf-8"))
        for line in lines:
            match = re.search(r"(?:^|\s|/)cps4 ([a-z].*)", line.split("#!")[0])
            if match:
                shown.append((str(page.relative_to(ROOT)), re.split(r"\s+(?:#\s|&&|\||>)", match.group(1))[0].strip()))
    return sorted(set(shown))


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_commands_and_options_that_a_page_shows_exist(page, line):
    words = line.split()
    assert words[0] in COMMANDS, f"{page}: cps4 {line}"
    command = main.get_command(click.Context(main), words[0])
    if isinstance(command, click.Group):
        alternatives = words[1].split("|") if len(words) > 1 else []
        if hasattr(command, "default_command") and not set(alternatives) & set(command.commands):
            alternatives = [command.default_command]
        assert all(name in command.commands for name in alternatives), f"{page}: cps4 {line}"
        command = command.commands[alternatives[0]] if alternatives else command
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.strip("[]'").split("=")[0] for word in words if re.match(r"\[?--?[a-zA-Z]", word)}
    assert used <= known | {"--help", "-h"}, f"{page}: cps4 {line}"


def merged(*names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    return parser


def setting(parser: ConfigParser, setting_id: str) -> Any:
    """Value of a setting: as the configs say, or else the default of the class that takes it."""
    try:
        value = parser[setting_id]
        return setting(parser, value[1:]) if isinstance(value, str) and value.startswith("@") else value
    except KeyError:
        parent, _, name = setting_id.rpartition("#")
        target = parser[parent]["_target_"] if parent and isinstance(parser[parent], Mapping) else None
        if target is None:
            raise
        module, _, attribute = target.rpartition(".")
        return inspect.signature(optional_import(module, name=attribute)[0]).parameters[name].default


def settings_table() -> list[tuple[str, str, str]]:
    rows = re.findall(
        r"^\| \d+ \|[^|]*\| `([\w#]+)` \| `([^|]*)` \| `([^|]*)` \|", EQUATIONS.read_text(encoding="utf-8"), flags=re.M
    )
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", EQUATIONS.read_text(encoding="utf-8"), flags=re.M)} == set(
        range(1, 20)
    )
    return rows


@pytest.mark.parametrize(("setting_id", "paper", "ours"), settings_table())
def test_settings_of_the_19_questions_are_those_of_the_overlays(setting_id, paper, ours):
    assert setting(merged("train.json", "methods/cps4_paper.json", "paper_size.json"), setting_id) == json.loads(paper)
    assert setting(merged("train.json"), setting_id) == json.loads(ours), "cps4 is the default"


def known_ids() -> set[str]:
    """Every setting of the configs, overlays included."""
    ids: set[str] = set()

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, Mapping) else ():
            path = f"{prefix}#{key}".lstrip("#")
            ids.add(path)
            walk(value, path)

    for file in CONFIGS.rglob("*.json"):
        walk(json.loads(file.read_text(encoding="utf-8")), "")
    return {name.lstrip("+") for name in ids}


def set_options() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return sorted(set(re.findall(r"--set '?([a-z_][\w#]*)=", text)))


@pytest.mark.parametrize("setting_id", set_options())
def test_settings_that_the_pages_set_exist(setting_id):
    if setting_id not in known_ids():  # an argument that a config leaves at the default of its class
        setting(merged("train.json", "evaluate.json"), setting_id)
