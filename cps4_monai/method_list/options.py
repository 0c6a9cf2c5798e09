"""The options of a method: arguments of its classes, with defaults, what the overlay sets, and what each means."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cps4_monai.fingerprint import node_of
from cps4_monai.known_settings import arguments_of, node_at
from cps4_monai.method_list.entries import STAGE1_PARTS, STAGE2_PART, MethodEntry, class_of


@dataclass(frozen=True)
class Option:
    """An argument of a method's class.

    Attributes:
        name: of the argument.
        setting: what ``--set`` takes: the setting that the overlay refers to, or the argument itself.
        default: of the class.
        value: in a run with the overlay.
        meaning: of the class's docstring; empty where it says nothing.
    """

    name: str
    setting: str
    default: Any
    value: Any
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        """In plain values."""
        return asdict(self)


def options_of(entry: MethodEntry) -> list[Option]:
    """Of the method's own classes; of a method without any, those of its stage. Networks and optimisers are none."""
    of_stage = {"1": STAGE1_PARTS, "2": (STAGE2_PART,), "1+2": (STAGE2_PART, *STAGE1_PARTS)}[entry.stages]
    return [option for part in of_stage for option in _options_of_part(entry, part)]


def _options_of_part(entry: MethodEntry, part: str) -> Iterator[Option]:
    target = str(node_at(entry.config, f"{part}#_target_"))
    meanings = meanings_of(class_of(target))
    for name, default in (arguments_of(target) or {}).items():
        if default is inspect.Parameter.empty:
            continue
        setting, given = f"{part}#{name}", node_at(entry.config, f"{part}#{name}", default)
        while isinstance(given, str) and re.fullmatch(r"@[A-Za-z_][\w#]*", given):
            setting, given = given[1:], node_at(entry.config, given[1:])
        value = default if given is default else node_of(entry.config, setting)
        yield Option(name, setting, _plain(default), _plain(value), meanings.get(name, ""))


def _plain(value: Any) -> Any:
    """What JSON can hold: an object by its class."""
    if isinstance(value, Mapping):
        return str(value["_target_"]) if "_target_" in value else {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def meanings_of(kind: Any) -> dict[str, str]:
    """Argument -> its lines under "Args:" of the docstring, those of the classes above it included."""
    meanings: dict[str, str] = {}
    for cls in getattr(kind, "__mro__", ()):
        section = re.search(r"^Args:\n((?:    .*\n|\n)*)", inspect.cleandoc(cls.__doc__ or "") + "\n", flags=re.M)
        for name, text in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", flags=re.M):
            meanings.setdefault(name, " ".join(text.split()))
    return meanings
