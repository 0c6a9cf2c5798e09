"""A study as its YAML file states it: which methods, shares and seeds, on which data, and what must be equal."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SECTIONS = ("validation", "test")
ALL = "all"  # a share: whatever the datalist itself calls labeled
KEYS = (
    *("name", "description", "phantom", "overlays", "settings", "seeds", "rotate_labeled", "evaluate"),
    *("baseline", "gap", "may_differ", "methods", "matrix"),
)
METHOD_KEYS = ("method", "overlays", "settings", "title")
BLOCK_KEYS = ("methods", "shares", "seeds", "overlays", "settings")


@dataclass(frozen=True)
class MethodSpec:
    """A method or a variant of one: its own overlay before those of the study, further ones and settings after them.

    Attributes:
        name: short name, part of folder names.
        title: as the report shows it.
        method: overlay that is merged first, e.g. ``cps4``.
        overlays: overlays merged after the study's, so that they have the last word on sizes as well.
        settings: id -> value, after all overlays.
    """

    name: str
    title: str
    method: str
    overlays: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A part of the matrix: methods x shares x seeds x sets of overlays.

    Attributes:
        methods: names of the study's methods.
        shares: labeled shares, as datalists write them, or "all".
        seeds: of the training.
        overlays: suffix of the methods' names (``+small``) -> overlays; one entry "" where it crosses with none.
        settings: id -> value for the cells of this block.
    """

    methods: tuple[str, ...]
    shares: tuple[str, ...]
    seeds: tuple[int, ...]
    overlays: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """What a study file says; see docs/how-to/run-a-study.md for each key.

    Attributes:
        name: part of file names.
        description: a sentence for the report.
        phantom: arguments of the phantom that the study runs on; None: on a datalist of the command.
        overlays: merged after each method's overlay.
        settings: id -> value for every cell.
        rotate_labeled: shares at which the seed also rotates which subjects are labeled.
        evaluate: sections that every cell predicts and scores.
        baseline: method that the others are compared with.
        gap: method whose result with all subjects labeled is the upper bound; "" for none.
        may_differ: ids that may differ between the methods in spite of the equal budget.
        methods: by name.
        matrix: the blocks.
    """

    name: str
    description: str
    phantom: Mapping[str, Any] | None
    overlays: tuple[str, ...]
    settings: Mapping[str, Any]
    rotate_labeled: frozenset[str]
    evaluate: tuple[str, ...]
    baseline: str
    gap: str
    may_differ: tuple[str, ...]
    methods: Mapping[str, MethodSpec]
    matrix: tuple[Block, ...]


class StudyError(ValueError):
    """A study file that cannot be used; the message names the file, the key and the fix."""


def load_study(path: str | Path) -> Study:
    """Reads and checks a study file.

    Raises:
        StudyError: not readable, an unknown key, a missing one, or a value of another form.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: cannot be read as a study ({error}); see studies/quick.yaml for the form") from error
    return parse_study(content, str(path))


def parse_study(content: Any, where: str) -> Study:
    """A study from what its file holds.

    Args:
        content: the parsed YAML.
        where: the file's name, for messages.

    Raises:
        StudyError: see :func:`load_study`.
    """
    read = _Reader(where)
    raw = read.mapping(content, "the study", KEYS)
    for key in ("name", "matrix"):
        if not raw.get(key):
            raise StudyError(f"{where}: {key!r} is missing; see studies/quick.yaml for the form")
    seeds = tuple(read.integers(raw.get("seeds", [0]), "seeds"))
    named = {str(k): v for k, v in read.mapping(raw.get("methods") or {}, "methods").items()}
    blocks = []
    for index, item in enumerate(read.sequence(raw["matrix"], "matrix")):
        blocks.append(read.block(item, f"matrix[{index}]", seeds))
    used = dict.fromkeys(name for block in blocks for name in block.methods)
    methods = {name: read.method(name, named.get(name)) for name in used}
    unused = sorted(set(named) - set(used))
    if unused:
        raise StudyError(f"{where}: methods {unused} are in no block of 'matrix'; add them there, or leave them out")
    sections = read.names(raw.get("evaluate", ["validation"]), "evaluate")
    if not sections or not set(sections) <= set(SECTIONS):
        raise StudyError(f"{where}: 'evaluate' is {list(sections)}; expected one or both of {list(SECTIONS)}")
    compared = dict.fromkeys(name + suffix for block in blocks for name in block.methods for suffix in block.overlays)
    baseline, gap = str(raw.get("baseline") or next(iter(compared))), str(raw.get("gap") or "")
    for key, value in (("baseline", baseline), ("gap", gap or baseline)):
        if value not in compared:
            raise StudyError(f"{where}: {key!r} is {value!r}; expected one of the methods {list(compared)}")
    rotate = read.mapping(raw.get("rotate_labeled") or {}, "rotate_labeled")
    rotated = frozenset(read.share(key, "rotate_labeled") for key, value in rotate.items() if value)
    shares = dict.fromkeys(share for block in blocks for share in block.shares if share != ALL)
    if wrong := sorted(rotated - shares.keys()):
        raise StudyError(
            f"{where}: 'rotate_labeled' has {wrong}; expected some of the shares {list(shares)} of the blocks in "
            "'matrix', of which a datalist records subsets: take the others out"
        )
    phantom = raw.get("phantom")
    return Study(
        name=read.folder_name(raw["name"], "name"),
        description=" ".join(str(raw.get("description", "")).split()),
        phantom=None if phantom is None else read.mapping(phantom, "phantom"),
        overlays=read.names(raw.get("overlays", []), "overlays"),
        settings=read.mapping(raw.get("settings") or {}, "settings"),
        rotate_labeled=rotated,
        evaluate=tuple(s for s in SECTIONS if s in sections),
        baseline=baseline,
        gap=gap,
        may_differ=read.names(raw.get("may_differ", []), "may_differ"),
        methods=methods,
        matrix=tuple(blocks),
    )


class _Reader:
    """Values of the expected form, or an error that names the place."""

    def __init__(self, where: str) -> None:
        self.where = where

    def mapping(self, value: Any, key: str, known: Sequence[str] | None = None) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise StudyError(f"{self.where}: {key} is a {type(value).__name__}; expected keys with values")
        for name in value:
            if known is not None and name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected some of {list(known)}"
                raise StudyError(f"{self.where}: {key} has the unknown key {name!r}: {hint}")
        return dict(value)

    def sequence(self, value: Any, key: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise StudyError(f"{self.where}: {key!r} is {value!r}; expected a list with at least one entry")
        return value

    def names(self, value: Any, key: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise StudyError(f"{self.where}: {key!r} is {value!r}; expected a list of names")
        return tuple(value)

    def integers(self, value: Any, key: str) -> list[int]:
        items = self.sequence(value, key)
        if not all(type(item) is int and item >= 0 for item in items) or len(set(items)) < len(items):
            raise StudyError(f"{self.where}: {key!r} is {value!r}; expected different whole numbers from 0 on")
        return items

    def share(self, value: Any, key: str) -> str:
        if value == ALL:
            return ALL
        try:
            number = float(str(value).removesuffix("%"))
        except ValueError:
            number = float("nan")
        if not 0 < number <= 100:
            raise StudyError(f"{self.where}: {key!r} has the share {value!r}; expected a percentage, e.g. 10, or {ALL}")
        return f"{number:g}"

    def folder_name(self, value: Any, key: str) -> str:
        text = str(value)
        if not text or not all(c.isalnum() or c in "_+." for c in text) or text.startswith("."):
            raise StudyError(f"{self.where}: {key} {text!r} is part of folder names; expected letters, digits, _ + .")
        return text

    def method(self, name: str, value: Any) -> MethodSpec:
        key = f"methods: {name}"
        raw = self.mapping(value or {}, key, METHOD_KEYS)
        return MethodSpec(
            name=self.folder_name(name, "the method"),
            title=str(raw.get("title") or name),
            method=str(raw.get("method") or name),
            overlays=self.names(raw.get("overlays", []), f"{key}: overlays"),
            settings=self.mapping(raw.get("settings") or {}, f"{key}: settings"),
        )

    def block(self, value: Any, key: str, seeds: tuple[int, ...]) -> Block:
        raw = self.mapping(value, key, BLOCK_KEYS)
        axis = self.mapping(raw.get("overlays") or {"": []}, f"{key}: overlays")
        return Block(
            methods=self.names(self.sequence(raw.get("methods"), f"{key}: methods"), f"{key}: methods"),
            shares=tuple(self.share(v, f"{key}: shares") for v in self.sequence(raw.get("shares"), f"{key}: shares")),
            seeds=tuple(self.integers(raw["seeds"], f"{key}: seeds")) if "seeds" in raw else seeds,
            overlays={f"+{k}" if k else "": self.names(v, f"{key}: overlays: {k}") for k, v in axis.items()},
            settings=self.mapping(raw.get("settings") or {}, f"{key}: settings"),
        )
