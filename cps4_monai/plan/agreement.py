"""Settings that contradict the weights they are used with are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cps4_monai.plan.file import plan_of
from cps4_monai.plan.plan import Plan, PlanError


def check_same_pixels(plan: Plan, weights: str | Path | None, allow_other: bool = False) -> None:
    """Refuses to go on from weights whose pixels or classes are not those of this run.

    Args:
        plan: of this run.
        weights: file or bundle folder that training starts from; None: from scratch.
        allow_other: start from them all the same, for whoever wants to move weights to another spacing.

    Raises:
        PlanError: they differ, or the weights have no plan; says in what, and what to do.
    """
    if weights is None or str(weights) == "" or allow_other:
        return
    path = Path(weights)
    found = plan.differences(plan_of(path / "models" / "model.pt" if path.is_dir() else path))
    if found:
        raise PlanError(
            f"{path}: training would start from weights that see other pixels ({'; '.join(found)}); set these to the "
            "weights' values, or set finetune_other_geometry to true to start from them all the same"
        )


def check_unchanged(plan: Plan, spacing_mm: Any, slice_size: Any, in_plane_mode: str) -> None:
    """Refuses settings of an evaluation that are not those of the weights.

    Raises:
        PlanError: a value was overridden; weights are evaluated as they were trained.
    """
    given = replace(plan, spacing_mm=spacing_mm, slice_size=slice_size, in_plane_mode=in_plane_mode)
    found = given.differences(plan)
    if found:
        raise PlanError(
            f"evaluation at another geometry than the weights' ({'; '.join(found)}); leave these settings out, they "
            "come with the weights"
        )
