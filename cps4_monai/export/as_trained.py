"""An overlay of ``train.json`` with the settings that weights depend on."""

from __future__ import annotations

from typing import Any

from cps4_monai.anatomy import load_anatomy
from cps4_monai.plan import Plan

FILE_NAME = "as_trained.json"
_WHY = "the settings of the weights in models, from their plan; written by cps4 export"


def as_trained(plan: Plan, base: dict[str, Any]) -> dict[str, Any]:
    """The overlay as it is written: :func:`settings_as_trained` with the reason for it.

    It has pixels and network even where ``train.json`` has the same: it is laid over overlays of sizes, too.
    """
    return {"_meta_": {"why": {"": _WHY}}, **_pixels(plan), **_network(plan, base), **settings_as_trained(plan, base)}


def settings_as_trained(plan: Plan, base: dict[str, Any]) -> dict[str, Any]:
    """What ``train.json`` must be told to train at the classes, pixels and network of a plan; nested ids have a ``#``.

    Args:
        plan: of the weights.
        base: ``train.json``; what it says already is left out.
    """
    settings: dict[str, Any] = {
        **_pixels(plan),
        "in_plane_mode": plan.in_plane_mode,
        "level_thresholds": dict(plan.decoding),
    }
    if base["anatomy_source"] or plan.anatomy.to_dict() != load_anatomy(None, base["prompt_template"]).to_dict():
        settings |= {"anatomy_source": plan.anatomy.to_dict(), "prompt_template": None}
    settings |= _network(plan, base)
    settings = {key: value for key, value in settings.items() if base.get(key) != value}
    if list(plan.percentiles) != list(base["cache"].get("percentiles", Plan.percentiles)):
        settings["cache#percentiles"] = list(plan.percentiles)
    return settings


def _pixels(plan: Plan) -> dict[str, Any]:
    size = None if plan.slice_size is None else list(plan.slice_size)
    return {"spacing_mm": plan.spacing_mm, "slice_size": size}


def _network(plan: Plan, base: dict[str, Any]) -> dict[str, Any]:
    """``features`` where these are all that distinguishes the network from that of ``train.json``, else the whole."""
    network, usual = dict(plan.network or {}), base["network_def"]
    fixed = {key: usual[key] for key in ("_target_", "in_channels") if key in usual}
    features = network.get("features")
    followed = usual.get("features") == "@features"  # not in a bundle that was exported with a network of its own
    if followed and {**fixed, "out_channels": plan.anatomy.num_classes, "features": features} == network:
        return {"features": list(features or [])}
    return {"network_def": {"_requires_": "@package_path", **network}}
