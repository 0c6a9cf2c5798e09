"""The settings that decide a run's result, out of its merged config: what may be shared, resumed or taken as done."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cps4_monai.known_settings import arguments_of, node_at

_REFERENCE = re.compile(r"@([A-Za-z_][\w#.]*)")
_PURE = re.compile(r"@([A-Za-z_][\w#]*)")
# Where things lie, how fast they run and what is shown: another value gives the same result.
PLACES_AND_PACE = frozenset({
    "bundle_root", "package", "package_path", "dataset_dir", "datalist", "output_dir", "cache_dir", "stage1_checkpoint",
    "stage1#output_dir", "train#output_dir", "min_free_gib", "device_name", "device", "num_workers", "show_progress",
    "rank", "world_size", "log_every", "pictured_structures", "settings", "check_output_dir", "check_data",
    "stage1#resume", "stage1#resume_settings", "train#resume", "train#resume_settings",
})  # fmt: skip
STAGE1_RESULT = "stage1_checkpoint"
_MISSING = object()


def node_of(config: Mapping[str, Any], setting: str) -> Any:
    """What a config has under an id, ``a#b`` for nested ones, plain references followed; None where it has nothing."""
    value, seen = node_at(config, setting), {setting}
    while isinstance(value, str) and (reference := _PURE.fullmatch(value)) and reference[1] not in seen:
        seen.add(reference[1])
        value = node_at(config, reference[1])
    return value


def effective_settings(config: Mapping[str, Any], run_id: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """Every value that a run id depends on, by the id of the leaf.

    References are followed from the run id on. Left out are the handlers of the base config, what is in
    ``PLACES_AND_PACE``, and the wiring that the base config brings along (expressions, references, classes): tidying
    that up changes no result, while the same from an overlay is a choice. A leaf that is a plain reference stands with
    the value that it leads to.

    Args:
        config: the merged config.
        run_id: e.g. "training_stage1".
        base: the config under all overlays.

    Raises:
        KeyError: the config has no such run id.
    """
    if run_id not in config:
        raise KeyError(f"the config has no run id {run_id!r}")
    found: dict[str, Any] = {}
    visited: set[str] = set()
    waiting = [run_id]
    while waiting:
        setting = waiting.pop()
        if setting in visited or _ignored(setting):
            continue
        visited.add(setting)
        node = node_at(config, setting, _MISSING)
        if node is _MISSING:
            continue
        for leaf, value in _leaves(node, setting):
            waiting += _references(value)
            kept = _value(config, value)
            of_base = value == node_at(base, leaf, _MISSING)
            if kept is _MISSING or _watching(leaf, of_base) or (_is_wiring(leaf, kept) and of_base):
                continue
            if not isinstance(kept, Mapping | list) or not _has_text(kept):
                found[leaf] = kept
    return dict(sorted(found.items()))


def needs_stage1(config: Mapping[str, Any]) -> bool:
    """Whether stage 2 reads what stage 1 leaves behind."""
    visited: set[str] = set()
    waiting = ["training_stage2"]
    while waiting:
        setting = waiting.pop()
        if setting == STAGE1_RESULT:
            return True
        node = node_at(config, setting, _MISSING)
        if setting in visited or node is _MISSING:
            continue
        visited.add(setting)
        waiting += [reference for _, value in _leaves(node, setting) for reference in _references(value)]
    return False


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Ids whose values differ, with both values; None stands for "not there".

    A setting that only one side has is an argument of an object, and then counts unless it is that argument's default,
    or an option of the bundle, which counts if it is on: a new one that is off (null, false, zero, empty) changes no
    earlier result.

    Args:
        before: settings of a run.
        now: settings of another.
        config: the merged config of one of them, where the objects' classes stand; None: all are taken for options.
    """
    changed = {}
    for setting in sorted(before.keys() | now.keys()):
        first, second = before.get(setting, _MISSING), now.get(setting, _MISSING)
        if first is _MISSING or second is _MISSING:
            value = first if second is _MISSING else second
            default = _default_of(config or {}, setting)
            if bool(value) if default is _MISSING else value != default:
                changed[setting] = (None if first is _MISSING else first, None if second is _MISSING else second)
        elif first != second:
            changed[setting] = (first, second)
    return changed


def _default_of(config: Mapping[str, Any], setting: str) -> Any:
    """What an argument of an object of the config is where it is not given; missing where it is no such argument."""
    owner, _, argument = setting.rpartition(": ")[2].rpartition("#")  # "training_stage1: stage1#loss#absent_weight"
    node = node_at(config, owner, _MISSING)
    if not isinstance(node, Mapping) or "_target_" not in node:
        return _MISSING
    default = (arguments_of(str(node["_target_"])) or {}).get(argument, inspect.Parameter.empty)
    return _MISSING if default is inspect.Parameter.empty else json.loads(json.dumps(default, default=str))


def _ignored(setting: str) -> bool:
    return any(setting == name or setting.startswith(f"{name}#") for name in PLACES_AND_PACE)


def _watching(leaf: str, of_base: bool) -> bool:
    return ("handlers#" in leaf and of_base) or leaf.rpartition("#")[2] in ("_requires_", "_desc_", "pin_memory")


def _is_wiring(leaf: str, value: Any) -> bool:
    return isinstance(value, str) and (value[:1] in ("$", "@", "%") or leaf.endswith("_target_"))


def _has_text(node: Any) -> bool:
    """Whether a structure that a reference leads to has more in it than numbers: its own leaves are recorded then."""
    items = node.values() if isinstance(node, Mapping) else node
    return any(isinstance(item, Mapping | list | str) for item in items)


def _leaves(node: Any, setting: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{setting}#{key}")
    elif isinstance(node, list) and any(isinstance(item, Mapping | list | str) for item in node):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{setting}#{index}")
    else:
        yield setting, node


def _references(value: Any) -> list[str]:
    return [name.rstrip(".").split(".")[0] for name in _REFERENCE.findall(value)] if isinstance(value, str) else []


def _value(config: Mapping[str, Any], value: Any) -> Any:
    """The leaf's value; what a plain reference leads to, if that is a plain value; missing where it does not count."""
    seen: set[str] = set()
    while isinstance(value, str) and (reference := _PURE.fullmatch(value)):
        name = reference[1]
        if name in seen or _ignored(name):
            return _MISSING
        seen.add(name)
        target = node_at(config, name, _MISSING)
        if target is _MISSING or isinstance(target, Mapping):
            return value
        value = target
    return value
