"""Parameter groups of a network, with learning rates that are multiples of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cps4_monai.networks.ema import unwrap


def parameter_groups(
    network: nn.Module, learning_rate: float, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimiser: parts of a network by name, each with its factor, and one group with the rest.

    One learning-rate scheduler moves all groups together, as each keeps its ratio to the others.

    Args:
        network: may be wrapped for several devices.
        learning_rate: of the rest.
        factors: start of a parameter's name (``"backbone.decoder"``) to the factor of its learning rate. The first
            entry that fits counts. None or empty: one group of all.

    Returns:
        Groups with ``params`` and ``lr``, in the order of `factors`, the rest first; every parameter is in one.

    Raises:
        ValueError: a negative factor, or a name that no parameter has.
    """
    chosen: dict[str, list[nn.Parameter]] = {"": [], **{prefix: [] for prefix in factors or {}}}
    negative = {prefix: factor for prefix, factor in (factors or {}).items() if factor < 0}
    if negative:
        raise ValueError(f"learning_rate_factors are {negative}; expected factors of 0 or more")
    bare = unwrap(network)
    for name, parameter in bare.named_parameters():
        fitting = [prefix for prefix in factors or {} if name == prefix or name.startswith(f"{prefix}.")]
        chosen[fitting[0] if fitting else ""].append(parameter)
    unused = [prefix for prefix, parameters in chosen.items() if prefix and not parameters]
    if unused:
        parts = sorted({name.rpartition(".")[0].split(".")[0] for name, _ in bare.named_parameters()})
        raise ValueError(
            f"learning_rate_factors name {unused}, which no parameter has; the network's parts are {parts}"
        )
    rates = {"": 1.0, **(factors or {})}
    return [{"params": params, "lr": learning_rate * rates[prefix]} for prefix, params in chosen.items() if params]
