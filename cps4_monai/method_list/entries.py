"""One entry for each overlay: its line, source, cost and needs, said by the overlay and its classes themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ConfigParser

from cps4_monai.fingerprint import node_of
from cps4_monai.known_settings import named_before, node_at

STAGE1_PARTS = ("stage1#method", "stage1#loss")
STAGE2_PART = "train#method"
NO_COST = "one trained network, one step a batch"
STAGE1 = "stage 1"  # how a class's need of a first stage begins
_SHOWN = 3  # settings in the line of a variant


@dataclass(frozen=True)
class MethodEntry:
    """A method, or a variant of one, as `cps4 methods` lists it.

    Attributes:
        name: of the overlay, which ``--overlay`` takes.
        path: of the overlay.
        stages: "1", "2" or "1+2": what it trains its own way.
        line: what it is, in a line.
        source: paper, and code that was read; empty where the class names none.
        cost: what a step costs beyond one network and one step.
        needs: what it takes beside labeled and unlabeled slices.
        after: the overlay that goes before it; None for a method of its own.
        classes: setting to the class that the overlay names there.
        overlay: its content.
        config: train.json with it, all overlays before it included.
    """

    name: str
    path: Path
    stages: str
    line: str
    source: str
    cost: tuple[str, ...]
    needs: tuple[str, ...]
    after: str | None
    classes: Mapping[str, str]
    overlay: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """In plain values, without the merged config."""
        return {
            "name": self.name,
            "stages": self.stages,
            "line": self.line,
            "source": self.source,
            "cost": list(self.cost),
            "needs": list(self.needs),
            "after": self.after,
            "classes": dict(self.classes),
        }


def list_methods(bundle_root: Path) -> list[MethodEntry]:
    """All overlays in ``configs/methods`` of a bundle, by name."""
    folder = bundle_root / "configs" / "methods"
    return [method_of(path, bundle_root) for path in sorted(folder.glob("*.json"))]


def method_of(path: Path, bundle_root: Path) -> MethodEntry:
    """The entry of an overlay, which may lie anywhere.

    An overlay that changes settings of the overlay whose name its own begins with (`ucmt` for `ucmt_paper`), and names
    no other class than that one, is a variant of it.

    Args:
        path: of the overlay.
        bundle_root: folder of the bundle that it is merged into.

    Raises:
        ValueError: a file that is no JSON object.
    """
    overlay, own_line = _read(path)
    before = _overlay_before(path, overlay, bundle_root)
    files = [bundle_root / "configs" / "train.json", *before, path]
    base, config = (ConfigParser.load_config_files([str(f) for f in part]) for part in (files[:-1], files))
    classes = {part: str(node_at(config, f"{part}#_target_")) for part in _parts_named(overlay)}
    of_before = method_of(before[-1], bundle_root) if before else None
    stages = of_before.stages if of_before else _stages(overlay, classes)
    return MethodEntry(
        name=path.stem,
        path=path,
        stages=stages,
        line=own_line or _line(overlay, base, config, classes, of_before),
        source=of_before.source if of_before else _source(classes or _of_config(config, stages)),
        cost=_cost(config, stages),
        needs=tuple(_needs(config, files[0], stages)),
        after=of_before.name if of_before else None,
        classes=classes,
        overlay=overlay,
        config=config,
    )


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """An overlay's settings, and what it says of itself where the line of its class would not tell it from others.

    The words stand in ``_meta_``, as the reasons for its settings do: ``{"line": ..., "why": {...}}``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({error}); expected an overlay, as mean_teacher.json"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected an object of settings, as mean_teacher.json"
        )
    words = content.pop(ConfigParser.meta_key, {})
    line = words.get("line", "") if isinstance(words, Mapping) else ""
    if not isinstance(line, str):
        raise ValueError(f"{path}: 'line' in {ConfigParser.meta_key} is {line!r}; expected a line of text")
    return content, line


def class_of(target: str) -> Any:
    """The class of a ``_target_``; None where Python cannot import it."""
    try:
        return locate(target)
    except ErrorDuringImport:
        return None


def first_line(target: str) -> str:
    """First line of a class's docstring, without its full stop."""
    documented = (getattr(class_of(target), "__doc__", None) or "").strip()
    if not documented:
        return f"{target}, which says nothing of itself, or cannot be imported"
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", documented.splitlines()[0]).removesuffix(".")


def _parts_named(overlay: Mapping[str, Any]) -> list[str]:
    """Of the settings that hold a method or a loss, those for which the overlay names a class."""

    def named(part: str) -> bool:
        value = overlay.get(part)
        return f"{part}#_target_" in overlay or (isinstance(value, Mapping) and "_target_" in value)

    return [part for part in (STAGE2_PART, *STAGE1_PARTS) if named(part)]


def _target(overlay: Mapping[str, Any], part: str) -> Any:
    value = overlay.get(part)
    return overlay.get(f"{part}#_target_", value.get("_target_") if isinstance(value, Mapping) else None)


def _overlay_before(path: Path, overlay: Mapping[str, Any], bundle_root: Path) -> list[Path]:
    """The overlays to merge before this one, none where it is a method of its own; nearest last."""
    nearest = named_before(path, bundle_root / "configs" / "methods")
    if nearest is None:
        return []
    content, _ = _read(nearest)
    before = _overlay_before(nearest, content, bundle_root)
    others = [part for part in _parts_named(overlay) if _target(overlay, part) != _target(content, part)]
    files = [bundle_root / "configs" / "train.json", *before, nearest]
    config = ConfigParser.load_config_files([str(file) for file in files])
    return [] if others or not _changed(overlay, config) else [*before, nearest]


def _stages(overlay: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    second = STAGE2_PART in classes or any(key.startswith(("train#method", "train#network")) for key in overlay)
    first = any(key.startswith(("stage1#", "training_stage1")) for key in overlay)
    return {(True, True): "1+2", (True, False): "1", (False, True): "2"}.get((first, second), "2")


def _line(
    overlay: Mapping[str, Any],
    base: Mapping[str, Any],
    config: Mapping[str, Any],
    classes: Mapping[str, str],
    before: MethodEntry | None,
) -> str:
    if before is None and STAGE2_PART in classes:
        return first_line(classes[STAGE2_PART])
    if before is None and (classes or "stage1#method#objective" in overlay):
        return _line_of_objective(config, classes)
    changed = [f"{key} {_short(overlay[key])}" for key in _changed(overlay, base)]
    more = f" and {len(changed) - _SHOWN} more settings" if len(changed) > _SHOWN else ""
    start = before.name if before else first_line(str(node_at(config, f"{STAGE2_PART}#_target_")))
    return f"{start}, with {', '.join(changed[:_SHOWN])}{more}" if changed else start


def _line_of_objective(config: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    """The objective's name, as reports and files have it, and what a method of its own does."""
    objective = node_of(config, "stage1#method#objective")
    method = classes.get(STAGE1_PARTS[0]) or (None if objective else next(iter(classes.values())))
    return ". ".join(str(part) for part in (objective, method and first_line(method)) if part)


def _changed(overlay: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The settings of an overlay that a config has not, or has otherwise."""
    return [key for key, value in overlay.items() if node_at(config, key, config) != value]


def _short(value: Any) -> str:
    """A setting's value in a few words: an object by its class."""
    if isinstance(value, Mapping):
        return str(value.get("_target_", "{...}")).rpartition(".")[2]
    return f"of {len(value)} items" if isinstance(value, list) else json.dumps(value).strip('"')


def _of_config(config: Mapping[str, Any], stages: str) -> dict[str, str]:
    """The class of the stage that an overlay changes without naming one."""
    part = STAGE2_PART if stages == "2" else STAGE1_PARTS[0]
    return {part: str(node_at(config, f"{part}#_target_"))}


def _source(classes: Mapping[str, str]) -> str:
    """What the classes themselves say; a class does not take over the source of the one that it derives from."""
    sources = [vars(kind).get("source", "") for target in classes.values() if (kind := class_of(target)) is not None]
    return "; ".join(dict.fromkeys(source for source in sources if source))


def _trained(config: Mapping[str, Any], stages: str) -> list[Any]:
    """The classes whose costs and needs count."""
    parts = (*((STAGE2_PART,) if "2" in stages else ()), *(STAGE1_PARTS if "1" in stages else ()))
    classes = [class_of(str(node_at(config, f"{part}#_target_"))) for part in parts]
    return [kind for kind in classes if kind is not None]


def _strings(kind: Any, name: str) -> tuple[str, ...]:
    """A tuple of strings that a class has; empty where it has none, or makes it only of an object."""
    value = getattr(kind, name, ())
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _cost(config: Mapping[str, Any], stages: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for kind in _trained(config, stages) for note in _strings(kind, "budget_notes")))


def _needs(config: Mapping[str, Any], default_file: Path, stages: str) -> Iterator[str]:
    """In words: what stage 2 takes of the config, then what the classes say."""
    default = ConfigParser.load_config_files([str(default_file)])
    if "2" in stages:
        yield from _needs_of_stage2(config, default)
    alone = "2" in stages and node_of(config, "train#provider") is None
    for kind in _trained(config, stages):
        yield from (need for need in _needs_of_class(kind) if not (alone and need.startswith(STAGE1)))
    if "1" in stages and (network := _another("stage1#network_def", config, default)):
        yield f"in stage 1, network {network}"
    if substitution := node_of(config, "stage1#method#substitution"):
        yield f"stand-ins: {substitution}"
    if "1" in stages and ("2" not in stages or node_of(config, "train#provider") is not None):
        yield "text encoder and ViT of stage 1"


def _needs_of_stage2(config: Mapping[str, Any], default: Mapping[str, Any]) -> Iterator[str]:
    if node_of(config, "train#provider") is None:
        yield "no stage 1"
    else:
        yield from _needs_of_stage1(class_of(str(node_at(config, f"{STAGE2_PART}#_target_"))))
        for part in ("train#provider", "train#provider#model"):
            if other := _another(part, config, default):
                yield f"provider {other}" if part == "train#provider" else f"stage-1 model {other}"
    if network := _another("train#network", config, default):
        yield f"network {network} around the deployed one"
    if network := _another("network_def", config, default):
        yield f"deploys {network}"
    if node_of(config, "train#decoded_labels") is not None:
        yield "labels decoded over whole volumes every few epochs"


def _needs_of_stage1(kind: Any) -> Iterator[str]:
    """What a method takes of stage 1, where its own ``needs`` do not say it already."""
    if not any(need.startswith(STAGE1) for need in _strings(kind, "needs")):
        yield f"{STAGE1}: its prompt maps" if _asks_for_maps(kind) else STAGE1


def _asks_for_maps(kind: Any) -> bool:
    """Whether a class says of prompt maps anything else than the class that all methods derive from."""
    said = [vars(base)["needs_prompt_map"] for base in getattr(kind, "__mro__", ()) if "needs_prompt_map" in vars(base)]
    return len(said) > 1 and said[0] is not False


def _another(part: str, config: Mapping[str, Any], default: Mapping[str, Any]) -> str | None:
    """Name of the class that a setting has and train.json has not."""
    ours, theirs = (node_at(given, f"{part}#_target_") for given in (config, default))
    return None if ours == theirs or ours is None else str(ours).rpartition(".")[2]


def _needs_of_class(kind: Any) -> Iterator[str]:
    if not getattr(kind, "needs_unlabeled", True) and not hasattr(kind, "freeze"):
        yield "labeled slices only"
    if hasattr(kind, "teacher"):
        yield "a teacher: moving average of the student"
    for name, slices in (("strong_views", "unlabeled"), ("labeled_strong_views", "labeled")):
        usual = 1 if slices == "unlabeled" else 0
        if (number := getattr(kind, name, usual)) > usual:
            yield f"strong views of each {slices} slice: {number}"
    if (steps := getattr(kind, "steps_per_batch", 1)) > 1:
        yield f"optimiser steps a batch: {steps}"
    if getattr(kind, "waits_for_device", False) is True:
        yield "waits for the device in each step"
    yield from _strings(kind, "needs")
