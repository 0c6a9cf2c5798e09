"""Whether two runs are the same experiment: every setting that decides a result, found by walking over the config.

Resuming, studies and their budgets ask here. Nothing is listed that counts; what does not count is listed below, with
the reason.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from cps4_monai.file_hash import CONTENT
from cps4_monai.known_settings import arguments_of, node_at, taken_by

_REFERENCE = re.compile(r"@([A-Za-z_](?:\w|#|::)*)")  # MONAI's separator is either

_PLACE = "a place: moved files give the same result"
_PACE = "how fast, not what"
_SHOWN = "what is shown and logged"
PLACES_AND_PACE: dict[str, str] = {
    "bundle_root": _PLACE,
    "output_root": _PLACE,
    "dataset_dir": _PLACE,
    "datalist": "a place: which scans it lists is compared by their names",
    "output_dir": _PLACE,
    "cache_dir": _PLACE,
    "stage1_checkpoint": "a place: the settings of stage 1 are its own run's, and its file is compared by its content",
    "stage1#output_dir": _PLACE,
    "train#output_dir": _PLACE,
    "finetune#output_dir": _PLACE,
    "finetune#weights": "a place: the file is compared by its content",
    "package": _PLACE,
    "package_path": _PLACE,
    "device_name": "the machine's: numbers agree up to rounding",
    "device": "the machine's: numbers agree up to rounding",
    "num_workers": _PACE,
    "min_free_gib": _PACE,
    "rank": "every process has its own",
    "show_progress": _SHOWN,
    "log_every": _SHOWN,
    "pictured_structures": _SHOWN,
    "context#trained_on": "facts for people, in the plan",
    "check_output_dir": _PACE,
    "check_data": "a check: it passes, or there is no run",
    "check_best": "a check of stage 2's settings: it passes, or there is no run",
}
CHANGES_ON_THE_WAY: dict[str, str] = dict.fromkeys(
    ("max_epochs", "stage1#max_epochs", "pretrain#max_epochs", "train#trainer#max_epochs"),
    "a run may be made longer: schedules go on as they began",
)
STAGE1_RESULT = "stage1_checkpoint"
_WATCHERS = {
    *("MLFlowHandler", "ResumedMLFlowHandler"),
    *("StatsHandler", "TensorBoardStatsHandler", "TensorBoardImageHandler"),
}
_NO_ARGUMENTS = ("_requires_", "_desc_", "pin_memory")
_FREELY_NAMED = ("learning_rate_factors",)  # a mapping by names of the user's: an entry that is not there is no 0
_MISSING = object()


def fingerprint(
    config: Mapping[str, Any], start: str, base: Mapping[str, Any] | None = None, but: Collection[str] = ()
) -> dict[str, Any]:
    """Every value that an id depends on, by the id of the leaf: two runs with equal ones are the same experiment.

    References are followed from ``start`` on. Left out are ``PLACES_AND_PACE``, handlers that only watch, and, with a
    ``base``, the wiring that it brings along (expressions, references, classes): tidying that up changes no result,
    while the same from an overlay is a choice. A leaf that is a plain reference stands with the value that it leads to.

    Args:
        config: the merged config.
        start: a run id or any other id, e.g. "training_stage1" or "train#trainer".
        base: the config under all overlays; None: expressions and classes are compared, too.
        but: further ids that do not count, with all below them.

    Raises:
        KeyError: the config has no such id.
    """
    if node_at(config, start, _MISSING) is _MISSING:
        raise KeyError(f"the config has no run id {start!r}")
    left_out = {*PLACES_AND_PACE, *but}
    decisive: dict[str, Any] = {}
    for leaf, value in _walk(config, start, left_out):
        kept = _value(config, value, left_out)
        of_base = base is not None and value == node_at(base, leaf, _MISSING)
        if kept is not _MISSING and not (of_base and _is_wiring(leaf, kept)):
            decisive[leaf] = _plain(kept)
    return dict(sorted(decisive.items()))


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Ids whose values differ, with both values; None stands for "not there".

    A setting that only one side has counts
    - as an argument of an object, or within a mapping of arguments that both sides have (``level_thresholds``), unless
      it is that argument's default;
    - within anything else that the other side states as empty or null, and in ``learning_rate_factors``, always: 0 is
      no absence there;
    - as any other option of the bundle if it is on: a new one that is off (null, false, zero, empty) changes no earlier
      result.

    Args:
        before: settings of a run.
        now: settings of another.
        config: the merged config of one of them, where the objects' classes stand, and the places of files that another
            record has by name and content; None: all are taken for options.
    """
    return {setting: (before.get(setting), now.get(setting)) for setting in sorted(_changed(before, now, config or {}))}


def same_result(before: Mapping[str, Any], now: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> bool:
    """Whether :func:`differences` finds none; as a rule known after a few settings, where it looks at all."""
    return next(_changed(before, now, config or {}), None) is None


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Ids whose values differ, those that both sides have first."""
    for setting in before.keys() & now.keys():
        sides = before[setting], now[setting]
        if sides[0] != sides[1] and not _is_unmoved(sides, node_of(config, _bare(setting))):
            yield setting
    for setting in before.keys() ^ now.keys():
        value, other = (before[setting], now) if setting in before else (now[setting], before)
        if _counts(setting, value, other, config):
            yield setting


def _is_unmoved(sides: tuple[Any, Any], place: Any) -> bool:
    """Whether one side has a file or folder by its place, as older records do, and the other by name and content."""
    if not isinstance(place, str) or place not in sides:
        return False
    other = sides[1 - sides.index(place)]
    return isinstance(other, str) and other.startswith(f"{PurePath(place).name}{CONTENT}")


def _counts(setting: str, value: Any, other: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a setting that the other side does not have makes another result."""
    owner, _, argument = setting.rpartition("#")
    default, taker = _default_of(config, setting), taken_by(_bare(owner))
    if taker is not None and (other.get(owner) == {} or any(known.startswith(f"{owner}#") for known in other)):
        default = _default(taker, argument)
    if default is not _MISSING:
        return bool(value != default)
    return bool(value) or _within(_bare(owner), _FREELY_NAMED) or any(outer in other for outer in _outer(setting))


def depends_on(config: Mapping[str, Any], start: str, setting: str) -> bool:
    """Whether an id leads to another one by its references."""
    return any(setting in _references(value) for _, value in _walk(config, start, ()))


def node_of(config: Mapping[str, Any], setting: str) -> Any:
    """What a config has under an id, ``a#b`` for nested ones, plain references followed; None where it has nothing."""
    value, seen = node_at(config, setting), {setting}
    while isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)) and reference[1] not in seen:
        seen.add(reference[1])
        value = node_at(config, _id(reference[1]))
    return value


def _walk(config: Mapping[str, Any], start: str, left_out: Collection[str]) -> Iterator[tuple[str, Any]]:
    """All leaves that an id leads to, each once."""
    visited: set[str] = set()
    waiting = [start]
    while waiting:
        setting = waiting.pop()
        node = node_at(config, setting, _MISSING)
        if setting in visited or _within(setting, left_out) or node is _MISSING:
            continue
        visited.add(setting)
        for leaf, value in _leaves(node, setting):
            if not _within(leaf, left_out) and leaf.rpartition("#")[2] not in _NO_ARGUMENTS:
                waiting += _references(value)
                yield leaf, value


def _default_of(config: Mapping[str, Any], setting: str) -> Any:
    """What an argument of an object of the config is where it is not given; missing where it is no such argument."""
    owner, _, argument = _bare(setting).rpartition("#")
    node = node_at(config, owner, _MISSING)
    return _default(str(node["_target_"]), argument) if isinstance(node, Mapping) and "_target_" in node else _MISSING


def _default(target: str | None, argument: str) -> Any:
    """Default of an argument of a class or function, as JSON keeps it; missing where it has none."""
    known = None if target is None else arguments_of(target)
    default = (known or {}).get(argument, inspect.Parameter.empty)
    return _MISSING if default is inspect.Parameter.empty else json.loads(json.dumps(default, default=str))


def _bare(setting: str) -> str:
    """The id alone: of "training_stage1: stage1#loss#absent_weight" what comes last."""
    return setting.rpartition(": ")[2]


def _outer(setting: str) -> Iterator[str]:
    """The ids that an id lies within, the nearest first."""
    while "#" in setting:
        setting = setting.rpartition("#")[0]
        yield setting


def _within(setting: str, names: Collection[str]) -> bool:
    return any(setting == name or setting.startswith(f"{name}#") for name in names)


def _is_wiring(leaf: str, value: Any) -> bool:
    return isinstance(value, str) and (value[:1] in ("$", "@", "%") or leaf.endswith("_target_"))


def _leaves(node: Any, setting: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{setting}#{key}")
    elif isinstance(node, list) and _has_text(_acting(node)):
        for index, value in enumerate(_acting(node)):
            yield from _leaves(value, f"{setting}#{index}")
    elif isinstance(node, list):
        yield setting, _acting(node)
    else:
        yield setting, node


def _acting(items: list[Any]) -> list[Any]:
    """A list without handlers that only show or log."""
    targets = [str(item.get("_target_", "")) if isinstance(item, Mapping) else "" for item in items]
    return [item for item, target in zip(items, targets, strict=True) if target.rpartition(".")[2] not in _WATCHERS]


def _references(value: Any) -> list[str]:
    names = _REFERENCE.findall(value) if isinstance(value, str) and value[:1] in ("@", "$") else []
    return [_id(name) for name in names]


def _id(name: str) -> str:
    return name.replace("::", "#")


def _value(config: Mapping[str, Any], value: Any, left_out: Collection[str]) -> Any:
    """The leaf's value; what a plain reference leads to, if that is a plain value; missing where it does not count."""
    seen: set[str] = set()
    while isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
        name = _id(reference[1])
        if name in seen or _within(name, left_out):
            return _MISSING
        seen.add(name)
        target = node_at(config, name, _MISSING)
        if isinstance(target, list):
            target = _acting(target)
        if target is _MISSING or isinstance(target, Mapping) or (isinstance(target, list) and _has_text(target)):
            return value
        value = target
    return value


def _has_text(items: list[Any]) -> bool:
    """Whether a list has more in it than numbers: its own leaves are recorded then."""
    return any(isinstance(item, Mapping | list | str) for item in items)


def _plain(value: Any) -> Any:
    """As JSON keeps it; a path by its text, an object by its class."""
    return json.loads(json.dumps(value, default=lambda item: str(item) if isinstance(item, Path) else repr(type(item))))
