"""Which settings a run of the bundle knows: a name that nothing reads is refused, with the names nearest to it."""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.config_item import ConfigComponent

_REFERENCE = re.compile(r"@([A-Za-z_](?:[\w#.]|::)*)")  # MONAI's separator is either
# Mappings of plain settings, and what takes them.
_GEOMETRY = "cps4_monai.transforms.slice_geometry.RandSliceGeometryd"
_ARGUMENTS_OF = {
    "geometry": _GEOMETRY,
    "stage1#geometry": _GEOMETRY,
    "intensity": "cps4_monai.transforms.augmentation.intensity_augmentation",
    "level_thresholds": "cps4_monai.levels.settings.LevelThresholds",
}
_NUMBER_OR_LIST = {"intensity#scale"}  # plus or minus a number, or between two
_METHOD, _PROVIDER = "train#method", "train#provider"
_PROMPTED = ("cps4", "cps4_paper")  # overlays of the method that train.json names
_WHOLE = {"seed"}  # numbers that cannot be a fraction
# Arguments of MONAI's ConfigWorkflow, which `python -m monai.bundle run` passes on with the overrides.
_CONSTRUCTOR_ARGUMENTS = {"meta_file", "logging_file", "init_id", "final_id", "properties_path"}


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a config in JSON, as it is written.

    Raises:
        ValueError: the file is no JSON, or no object of settings; names it.
    """
    expected = 'expected an object of settings in JSON, e.g. {"max_epochs": 50}'
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        fix = "write it as JSON" if Path(path).suffix in (".yaml", ".yml") else "correct it there"
        raise ValueError(f"config {path} cannot be read as JSON ({error}); {expected}. Fix: {fix}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"config {path} holds a {type(content).__name__}; {expected}. Fix: name each setting with its value"
        )
    return content


def refuse_unknown_settings(files: Sequence[str], override: Mapping[str, Any]) -> None:
    """Checks the overlays among ``files`` and the overrides against what is configured before them.

    A setting is known if the configs so far define it, if something in its own layer or before refers to it, if it is
    an argument of an object that they build, or if it is a list of expressions and objects (a run id). What MONAI reads
    of an object (``_target_``, ``_disabled_``) is known of every mapping; other names with an underscore are not.

    Args:
        files: configs in the order in which they are merged; the first one defines the settings.
        override: id -> value of the command.

    Raises:
        ValueError: a setting that is none of these; says where, and the nearest names. A file that holds no settings.
            Two methods of stage 2.
    """
    layers = [read_settings(file) for file in files[1:]]
    by_file = dict(zip(files[1:], layers, strict=True))
    _refuse_two_methods(by_file)
    _refuse_prompts_turned_off(by_file)
    for count, layer in enumerate(layers, start=1):
        merged = ConfigParser.load_config_files(list(files[:count]))
        try:
            _check_layer(layer, merged, f"config {files[count]}")
        except ValueError as error:
            before = named_before(Path(files[count]), Path(files[count]).parent)
            if before is None or str(before) in files[:count]:
                raise
            name = Path(files[count]).stem
            raise ValueError(
                f"{error}. If {name} is a variant of {before.stem}, name {before.stem} before it"
            ) from error
    pairs = {key: value for key, value in override.items() if key not in _CONSTRUCTOR_ARGUMENTS}
    _check_layer(pairs, ConfigParser.load_config_files(list(files)), "the command")


def _refuse_two_methods(layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Settings of the first would stay beside the second: a network, views or weights that were not meant for it."""
    methods = [(file, str(node_at(layer[_METHOD], "_target_"))) for file, layer in layers.items() if _METHOD in layer]
    for (first, of_first), (second, of_second) in itertools.pairwise(methods):
        base, own = locate(of_first), locate(of_second)
        builds_on = inspect.isclass(base) and inspect.isclass(own) and issubclass(own, base)
        if of_first != of_second and not builds_on:
            raise ValueError(
                f"configs {first} and {second} name different methods, {of_first} and {of_second}; expected one. Fix: "
                "leave one of them out"
            )


def _refuse_prompts_turned_off(layers: Mapping[str, Mapping[str, Any]]) -> None:
    """`cps4` and `cps4_paper` set no method, which is that of train.json: after another one they would do nothing."""
    off = ""
    for file, layer in layers.items():
        if _METHOD not in layer and off and Path(file).stem in _PROMPTED:
            raise ValueError(
                f"configs {off} and {file} name different methods: {Path(file).stem} wants class prompts, which the "
                "first turns off; expected one. Fix: leave one of them out"
            )
        if _METHOD in layer or _PROVIDER in layer:
            off = file if layer.get(_PROVIDER, ...) is None else ""


def named_before(overlay: Path, folder: Path) -> Path | None:
    """The overlay in a folder whose name that of another begins with, the longest of them: of `ucmt_paper`, `ucmt`."""
    named_so = [other for other in folder.glob("*.json") if overlay.stem.startswith(f"{other.stem}_")]
    return max(named_so, key=lambda other: len(other.stem), default=None)


def unread_settings(config: Mapping[str, Any], run_ids: Collection[str], settings: Iterable[str]) -> list[str]:
    """Those among settings that no run id leads to: they change nothing in its run.

    Args:
        config: the merged config.
        run_ids: what is run, and what else is built for it.
        settings: ids, with or without MONAI's "+" and "~".
    """
    reached: set[str] = set()
    waiting = [run_id for run_id in run_ids if run_id in config]
    while waiting:
        setting = waiting.pop()
        if setting not in reached:
            reached.add(setting)
            waiting += _references(node_at(config, setting))
    return [name for name in settings if not any(_overlap(name.lstrip("+~"), other) for other in reached)]


def _overlap(setting: str, other: str) -> bool:
    """Whether one id is the other, or within it."""
    return f"{setting}#".startswith(f"{other}#") or f"{other}#".startswith(f"{setting}#")


def _check_layer(layer: Mapping[str, Any], merged: Any, where: str) -> None:
    config = merged.get() if isinstance(merged, ConfigParser) else merged
    known = {*_setting_ids(config), *_plain_arguments(config)}
    referenced = {*_references(config), *_references(layer)}
    read = referenced | {reference.rpartition("#")[0] for reference in referenced}
    for key, value in layer.items():
        if key == ConfigParser.meta_key:  # words about a config, which MONAI replaces by the bundle's metadata
            continue
        setting = key.removeprefix("+").removeprefix("~")
        for name in (setting, *_nested(setting, value, config)):
            _check(name, value, config, known, read, where)
        if setting == key:
            _check_kind(setting, value, node_at(config, setting), where)


def _check(setting: str, value: Any, config: Any, known: set[str], read: set[str], where: str) -> None:
    parent, _, leaf = setting.rpartition("#")
    if setting in known or setting in read or _is_run_id(value):
        return
    owner = node_at(config, parent) if parent else None
    if leaf in ConfigComponent.non_arg_keys and (isinstance(owner, Mapping) or parent in read - {""}):
        return
    if isinstance(owner, Mapping) and "_target_" in owner:
        accepted = arguments_of(str(owner["_target_"]))
        if accepted is None or leaf in accepted:
            return
        candidates = {f"{parent}#{argument}" for argument in (*accepted, *ConfigComponent.non_arg_keys)}
    else:
        candidates = {name for name in known if not name.startswith(ConfigParser.meta_key)}
    near = difflib.get_close_matches(setting, sorted(candidates), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see the configs for the settings there are"
    raise ValueError(f"{where} sets {setting!r}, which no config defines or reads: {hint}")


def _check_kind(setting: str, value: Any, before: Any, where: str) -> None:
    """Refuses what is no switch, number or list in the place of one; null, expressions and objects may be either.

    Raises:
        ValueError: names the setting, what it is, and what is expected.
    """
    if isinstance(value, Mapping) and isinstance(before, Mapping):
        for key, item in value.items():
            _check_kind(f"{setting}#{key}", item, before.get(key), where)
        return
    if value is None or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
        return
    if isinstance(value, Mapping) and "_target_" in value:
        return
    if isinstance(before, bool):
        right, expected = isinstance(value, bool), "true or false"
    elif isinstance(before, int | float):
        kinds = (int,) if setting in _WHOLE else (int, float)
        right, expected = isinstance(value, kinds) and not isinstance(value, bool), "a number"
        if setting in _WHOLE:
            expected = "a whole number"
        elif setting in _NUMBER_OR_LIST:
            right, expected = right or isinstance(value, list | tuple), "a number or a list of two"
    elif isinstance(before, list):
        right, expected = isinstance(value, list | tuple), "a list"
    else:
        return
    if not right:
        raise ValueError(f"{where} sets {setting!r} to {value!r}; expected {expected}, e.g. {json.dumps(before)}")


def _nested(setting: str, value: Any, config: Any) -> Iterator[str]:
    """Ids within a mapping that replaces or extends a mapping of settings (not an object's description)."""
    node = node_at(config, setting)
    if isinstance(value, Mapping) and isinstance(node, Mapping) and "_target_" not in {*value, *node}:
        for key, item in value.items():
            if isinstance(item, Mapping) and "_target_" in item:  # an object under a name of its own
                continue
            inner = f"{setting}#{key}"
            yield inner
            yield from _nested(inner, item, config)


def node_at(config: Any, setting: str, missing: Any = None) -> Any:
    """What a config has under an id, ``a#b`` for nested ones; ``missing`` where it has nothing."""
    for part in setting.split("#"):
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, Mapping) and part in config:
            config = config[part]
        else:
            return missing
    return config


@functools.cache
def arguments_of(target: str) -> Mapping[str, Any] | None:
    """Arguments that a class or function takes, with their defaults; None where it takes any, or is not found.

    An argument without a default has ``inspect.Parameter.empty``.
    """
    called = locate(target) if "." in target else None
    if called is None:
        return None
    functions = (
        [vars(c)["__init__"] for c in called.__mro__ if "__init__" in vars(c)] if inspect.isclass(called) else []
    )
    arguments: dict[str, Any] = {}
    for function in functions or [called]:
        if not callable(function) or function is object.__init__:
            return None
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "self":
                arguments.setdefault(parameter.name, parameter.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return arguments
    return None


def taken_by(setting: str) -> str | None:
    """What takes the plain mapping of settings under an id as its arguments; None where it is no such mapping."""
    return _ARGUMENTS_OF.get(setting)


def _is_run_id(value: Any) -> bool:
    """Whether a value is a list of expressions and objects: something to run, which nothing else need refer to."""
    return isinstance(value, list) and bool(value) and all(_is_run(item) for item in value)


def _is_run(item: Any) -> bool:
    return (isinstance(item, str) and item.startswith(("$", "@"))) or (isinstance(item, Mapping) and "_target_" in item)


def _setting_ids(node: Any, prefix: str = "") -> Iterator[str]:
    items: Iterable[tuple[str, Any]]
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list):
        items = ((str(i), v) for i, v in enumerate(node))
    else:
        return
    for key, value in items:
        path = f"{prefix}#{key}" if prefix else str(key)
        yield path
        yield from _setting_ids(value, path)


def _plain_arguments(config: Any) -> Iterator[str]:
    """Ids within the mappings that a function takes as its arguments: those that a config leaves at their defaults."""
    for setting, function in _ARGUMENTS_OF.items():
        if isinstance(node_at(config, setting), Mapping):
            yield from (f"{setting}#{argument}" for argument in arguments_of(function) or ())


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield from (m.split(".")[0].replace("::", "#") for m in _REFERENCE.findall(node))
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
