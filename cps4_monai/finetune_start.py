"""What a fine-tuning starts from: weights with their plan, and what settings and overlays may say beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.anatomy import load_anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.bundle_root import BUNDLE_WEIGHTS
from cps4_monai.data.datalist import load_datalist
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.bundle import open_bundle
from cps4_monai.inference.segmentation import plain
from cps4_monai.plan import Plan, plan_of
from cps4_monai.workflow import read_overlays

# What fine-tuning takes from the plan of the weights, whatever the configs say.
OF_WEIGHTS = ("spacing_mm", "slice_size", "in_plane_mode", "features", "network_def", "anatomy_source", "unannotated")


def check_codes(datalist: Path, plan: Plan) -> None:
    """Checks that the label maps of a datalist have the structures of the weights.

    Raises:
        DatalistError: they have others, or the datalist cannot be read.
    """
    load_datalist(datalist, check_files=False).check_anatomy(plan.anatomy)


def refuse_of_weights(given: Mapping[str, Any]) -> None:
    """Refuses settings of a fine-tuning that come with its weights: they would change nothing.

    Raises:
        ValueError: names them.
    """
    named = sorted(key for key in given if key.partition("#")[0] in OF_WEIGHTS)
    if named:
        raise ValueError(
            f"finetune: {', '.join(named)} set, which come with the weights (their plan.json); expected none of them. "
            "Fix: leave them out, or train stage2 with finetune_from and finetune_other_geometry"
        )


def settings_of_overlays(overlays: Sequence[str], plan: Plan) -> list[str]:
    """What overlays set of a fine-tuning and are to be warned of where it does not read it.

    Left out is what they say as the plan of the weights does (``as_trained``), or for other runs (``multi_gpu_train``).

    Raises:
        ValueError: settings that come with the weights, at other values than theirs; names the overlay.
    """
    further: list[str] = []
    for path, layer in read_overlays(overlays).items():
        others = [key for key, value in layer.items() if not _as_planned(key, value, plan)]
        wrong = {key: layer[key] for key in sorted(others) if key.partition("#")[0] in OF_WEIGHTS}
        if wrong:
            said = ", ".join(f"{key} to {value!r}" for key, value in wrong.items())
            raise ValueError(
                f"finetune: {path} sets {said}, which come with the weights (their plan.json has others); expected "
                "theirs, or none. Fix: leave them out of the overlay, or train stage2 with finetune_from and "
                "finetune_other_geometry"
            )
        further += [key for key in others if not _of_another_run(key)]
    return further


def _of_another_run(key: str) -> bool:
    """Whether an overlay sets it for stage 1 or 2, or for a run as a whole: overlays are written for all of them."""
    first, _, within = key.partition("#")
    return first in ("stage1", "train") or (not within and (first == "run" or first.startswith("training_")))


def _as_planned(key: str, value: Any, plan: Plan) -> bool:
    """Whether a setting is there what it is in the plan of weights."""
    if key == "anatomy_source":
        try:
            return load_anatomy(value, stored=True).to_dict() == plan.anatomy.to_dict()
        except ValueError:
            return False
    network = dict(plan.network or {})
    planned: dict[str, Any] = {
        "spacing_mm": plan.spacing_mm,
        "slice_size": plan.slice_size,
        "in_plane_mode": plan.in_plane_mode,
        "features": network.get("features"),
        "network_def": network,
        "unannotated": plan.unannotated,
        "level_thresholds": plan.decoding,
        "cache": {"percentiles": plan.percentiles},
        "prompt_template": None,
    }
    if key == "network_def" and isinstance(value, Mapping):
        value = {name: item for name, item in value.items() if name != "_requires_"}
    there: Any = planned
    for part in key.split("#"):
        if not isinstance(there, Mapping) or part not in there:
            return False
        there = there[part]
    return plain({key: there}) == plain({key: value})


def starting_plan(weights: Path | None, output: Path) -> Plan:
    """Of the weights that a fine-tuning starts from; nothing is copied."""
    path = output.resolve() / BUNDLE_WEIGHTS
    return plan_of(path) if path.is_file() and weights is None else open_bundle(weights).plan


def starting_weights(weights: Path | None, output: Path) -> Path:
    """``models/model.pt`` of the run, with its plan: copied from a bundle where it is not there yet.

    Raises:
        ValueError: no usable weights, or others than those that are there.
    """
    path = output.resolve() / BUNDLE_WEIGHTS
    if path.is_file() and weights is None:
        return path
    bundle = open_bundle(weights)
    if path.is_file():
        there = file_sha256(path)
        if there != bundle.sha256:
            raise ValueError(
                f"{path}: holds other weights ({there[:12]}...) than --weights ({bundle.sha256[:12]}...); expected the "
                "same. Fix: leave --weights out to go on from those that are there, or choose another output folder"
            )
        return path
    write_atomically(path.with_name("plan.json"), json.dumps(bundle.plan.to_dict(), indent=2) + "\n", shared=True)
    return write_atomically(path, bundle.content, shared=True)
