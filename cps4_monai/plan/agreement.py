"""Settings that contradict the weights they are used with are refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from cps4_monai.plan.file import plan_of, plan_path, weights_file
from cps4_monai.plan.plan import Plan, PlanError
from cps4_monai.true_or_false import true_or_false

logger = logging.getLogger(__name__)


def check_same_pixels(
    plan: Plan, weights: str | Path | None, allow_other: bool = False, shipped: str | Path | None = None
) -> None:
    """Refuses to go on from weights whose pixels or classes are not those of this run.

    Args:
        plan: of this run.
        weights: file or bundle folder that training starts from; None: from scratch.
        allow_other: start from them all the same, for whoever wants to move weights to another spacing.
        shipped: weights of the bundle that the configs are from. Where training starts from scratch and at other
            settings than theirs, a line in the log says so.

    Raises:
        PlanError: they are not there, differ, or have no plan; says in what, and what to do.
    """
    if weights is None or str(weights) == "":
        _tell_shipped(plan, shipped)
        return
    file = weights_file(weights)
    if true_or_false(allow_other, "finetune_other_geometry"):
        return
    differences = plan.differences(plan_of(file))
    if differences:
        raise PlanError(
            f"{Path(weights)}: training would start from weights that see other pixels ({'; '.join(differences)}); set "
            "these to the weights' values, or set finetune_other_geometry to true to start from them all the same"
        )


def _tell_shipped(plan: Plan, shipped: str | Path | None) -> None:
    if shipped is None or not Path(shipped).is_file() or not plan_path(shipped).is_file():
        return
    differences = plan.differences(plan_of(shipped))
    if differences:
        logger.info(
            "training from scratch, not from the weights that the bundle ships: %s. The overlay as_trained.json has "
            "their settings, finetune_from starts from them",
            "; ".join(differences),
        )


def check_unchanged(plan: Plan, spacing_mm: Any, slice_size: Any, in_plane_mode: str) -> None:
    """Refuses settings of an evaluation that are not those of the weights.

    Raises:
        PlanError: a value was overridden; weights are evaluated as they were trained.
    """
    given = replace(plan, spacing_mm=spacing_mm, slice_size=slice_size, in_plane_mode=in_plane_mode)
    differences = given.differences(plan)
    if differences:
        raise PlanError(
            f"evaluation at another geometry than the weights' ({'; '.join(differences)}); leave these settings out, "
            "they come with the weights"
        )
