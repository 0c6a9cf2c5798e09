"""A network in plain values, as a plan keeps it, and back: nothing but networks is ever built from it."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from cps4_monai.networks.ema import unwrap

logger = logging.getLogger(__name__)

_PACKAGES = ("cps4_monai.networks", "monai.networks")
_FETCHING_ARGUMENTS = re.compile(r"pretrained.*|.*url|weights|checkpoint")
_FETCHING_CLASSES = {"TorchVisionFCModel", "Transchex"}  # of MONAI: they hand on to what fetches, whatever is given


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
    elsewhere is data and cannot run code, just as ``weights_only`` keeps the weights from doing so. Nor can it have
    files opened or fetched: networks come with fresh weights, and arguments that ask for others are refused.

    Args:
        description: ``_target_`` and arguments.
        where: what it belongs to, for messages.

    Raises:
        ValueError: none, another target, one that is not there, arguments that do not fit it or would fetch weights.
    """
    if description is None:
        raise ValueError(f"{where}: its plan has no 'network'; it cannot be built here: export the run again")
    target = str(description.get("_target_"))
    arguments = {key: value for key, value in description.items() if key != "_target_"}
    package, _, name = target.rpartition(".")
    network_class = None
    if any(package == allowed or package.startswith(f"{allowed}.") for allowed in _PACKAGES):
        network_class = getattr(_module(package, target, where), name, None)
    if not isinstance(network_class, type) or not issubclass(network_class, nn.Module):
        raise ValueError(
            f"{where}: 'network' has the target {target!r}; expected a network of {' or '.join(_PACKAGES)}. Plans that "
            "come with weights are not executed"
        )
    _refuse_fetching(network_class, arguments, f"{where}: 'network' is {target}")
    try:
        return network_class(**arguments)
    except ImportError as error:
        raise ValueError(
            f"{where}: 'network' is {target}, which needs a package that is not here ({error}); install it"
        ) from error
    except Exception as error:  # whatever a constructor makes of arguments from elsewhere
        what = str(error) if isinstance(error, TypeError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}: 'network' does not fit {target} ({what}); export the run again") from error


def _module(package: str, target: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"{where}: 'network' has the target {target!r}, which cannot be imported here ({error}); use the versions "
            "of cps4_monai and MONAI that the weights were made with, or export the run again"
        ) from error


def _refuse_fetching(network_class: type[nn.Module], arguments: Mapping[str, Any], what: str) -> None:
    """Refuses what would open or download a file of weights, by an argument or by what holds where none is given."""
    classes = _FETCHING_CLASSES & {kind.__name__ for kind in network_class.__mro__}
    if classes:
        raise ValueError(f"{what}, which fetches files when it is built; expected a network without weights of others")
    for name, value in {**_defaults(network_class), **arguments}.items():
        if value and _FETCHING_ARGUMENTS.fullmatch(name):
            said = "" if name in arguments else ", which is its default"
            raise ValueError(
                f"{what} with {name} {value!r}{said}: it would open or download a file when it is built; expected no "
                f"weights but those beside the plan. Fix: write {name} as null or false into the plan's 'network'"
            )


def _defaults(network_class: type[nn.Module]) -> dict[str, Any]:
    """Default of each argument, also of those that a constructor hands on to its base class."""
    found: dict[str, Any] = {}
    for kind in network_class.__mro__:
        if "__init__" not in vars(kind) or kind is nn.Module:
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        for parameter in parameters:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            found.setdefault(parameter.name, default)
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _public_module(kind: type[nn.Module]) -> str:
    """The package that offers the class, which stays where the file may move; else the file's module."""
    package = kind.__module__.rpartition(".")[0]
    offered = getattr(importlib.import_module(package), kind.__name__, None) if package else None
    return package if offered is kind else kind.__module__
