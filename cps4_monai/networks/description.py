"""A network in plain values, as a plan keeps it, and back: nothing but networks is ever built from it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from cps4_monai.networks.ema import unwrap

logger = logging.getLogger(__name__)

_PACKAGES = ("cps4_monai.networks", "monai.networks")


def describe(network: nn.Module) -> dict[str, Any] | None:
    """``_target_`` and arguments of a network that says how it was made, from which :func:`build_network` makes it.

    A network says so by a method ``arguments()`` that gives its constructor's arguments in plain values, as
    :class:`cps4_monai.networks.ResUNet` has it.

    Returns:
        None, with a line in the log, for a network that does not: its weights can be trained and evaluated in the run
        itself, but not be exported.
    """
    bare = unwrap(network)
    arguments = getattr(bare, "arguments", None)
    if not callable(arguments):
        logger.warning(
            "%s has no method arguments() that gives its constructor's arguments in plain values: the plan of this "
            "run does not say how to build it, so that its weights cannot be exported",
            type(bare).__name__,
        )
        return None
    kind = type(bare)
    return {"_target_": f"{_public_module(kind)}.{kind.__name__}", **arguments()}


def build_network(description: Mapping[str, Any] | None, where: str = "plan") -> nn.Module:
    """The network of a description, with fresh weights.

    Built are networks of this package and of MONAI only, from plain values: a plan that comes with weights from
    elsewhere is data and cannot run code, just as ``weights_only`` keeps the weights from doing so.

    Args:
        description: ``_target_`` and arguments.
        where: what it belongs to, for messages.

    Raises:
        ValueError: none, another target, arguments that are not plain values, or arguments that do not fit it.
    """
    if description is None:
        raise ValueError(f"{where}: its plan has no 'network'; it cannot be built here: export the run again")
    target = str(description.get("_target_"))
    arguments = {key: value for key, value in description.items() if key != "_target_"}
    package, _, name = target.rpartition(".")
    network_class = None
    if any(package == allowed or package.startswith(f"{allowed}.") for allowed in _PACKAGES):
        network_class = getattr(importlib.import_module(package), name, None)
    if not isinstance(network_class, type) or not issubclass(network_class, nn.Module):
        raise ValueError(
            f"{where}: 'network' has the target {target!r}; expected a network of {' or '.join(_PACKAGES)}. Plans that "
            "come with weights are not executed"
        )
    try:
        return network_class(**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: 'network' does not fit {target} ({error}); export the run again") from error


def _public_module(kind: type[nn.Module]) -> str:
    """The package that offers the class, which stays where the file may move; else the file's module."""
    package = kind.__module__.rpartition(".")[0]
    offered = getattr(importlib.import_module(package), kind.__name__, None) if package else None
    return package if offered is kind else kind.__module__
