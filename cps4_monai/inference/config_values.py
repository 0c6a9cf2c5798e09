"""Values out of a bundle's JSON config without running it: a config that comes with weights is data, not code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

_ATTRIBUTES = re.compile(r"\$@([A-Za-z_][\w#]*)((?:\.[A-Za-z]\w*)*)")
_MARKS = ("_requires_", "_desc_", "_mode_")
_PACKAGES = ("cps4_monai.networks", "monai.networks")
_FUNCTIONS = ("cps4_monai.anatomy.load_anatomy",)


class ConfigValues:
    """Reads single ids of a config, following references.

    Understood are JSON values, references (``@id``), attributes of references (``$@id.attribute``) and objects whose
    ``_target_`` is a network of this package or of MONAI, or ``load_anatomy``. Nothing else is evaluated, so a zip from
    elsewhere cannot run code by its config, just as ``weights_only`` keeps its weights from doing so.

    Args:
        config: the parsed JSON.
        where: the file's name, for messages.
        given: values that take the place of ids.
    """

    def __init__(self, config: Mapping[str, Any], where: str, given: Mapping[str, Any] | None = None) -> None:
        self.config, self.where = config, where
        self._known = dict(given or {})
        self._open: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """Value of an id (``a#b`` for nested ones), or the default where the config has none.

        Raises:
            ValueError: an expression or target that is not read here, or references in a circle.
        """
        if key in self._known:
            return self._known[key]
        node: Any = self.config
        for part in key.split("#"):
            if isinstance(node, Mapping) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                return default
        if key in self._open:
            raise ValueError(f"{self.where}: {key!r} refers to itself; correct the config")
        self._open.append(key)
        try:
            self._known[key] = self._value(node, key)
        finally:
            self._open.pop()
        return self._known[key]

    def _value(self, node: Any, key: str) -> Any:
        if isinstance(node, list):
            return [self._value(item, key) for item in node]
        if isinstance(node, Mapping):
            arguments = {k: self._value(v, key) for k, v in node.items() if k not in (*_MARKS, "_target_")}
            return self._target(node["_target_"], key)(**arguments) if "_target_" in node else arguments
        if not isinstance(node, str) or node[:1] not in ("@", "$", "%"):
            return node
        found = _ATTRIBUTES.fullmatch(node if node[0] == "$" else f"${node}")
        if found is None:
            raise self._refused(key, f"the expression {node!r}", "a JSON value, '@id' or '$@id.attribute'")
        missing = object()
        value = self.get(found[1], missing)
        if value is missing:
            raise ValueError(f"{self.where}: {key!r} refers to {found[1]!r}, which is not in the config")
        for attribute in filter(None, found[2].split(".")):
            value = getattr(value, attribute)
        return value

    def _target(self, target: Any, key: str) -> Callable[..., Any]:
        from torch import nn

        package, _, name = str(target).rpartition(".")
        if any(package == p or package.startswith(f"{p}.") for p in _PACKAGES) or target in _FUNCTIONS:
            found = getattr(importlib.import_module(package), name, None)
            if target in _FUNCTIONS or (isinstance(found, type) and issubclass(found, nn.Module)):
                return found  # type: ignore[return-value]
        raise self._refused(key, f"the target {target!r}", f"a network of {' or '.join(_PACKAGES)}, or load_anatomy")

    def _refused(self, key: str, found: str, expected: str) -> ValueError:
        return ValueError(
            f"{self.where}: {key!r} is {found}; expected {expected}. Configs that come with weights are not executed: "
            "write the value itself into inference.json"
        )
