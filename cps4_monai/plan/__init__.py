"""The plan: what must travel with weights, as ``plan.json`` beside them; light, so that everything may read it."""

from __future__ import annotations

from cps4_monai.plan.agreement import check_same_pixels, check_unchanged
from cps4_monai.plan.file import (
    FILE_NAME,
    check_plan,
    parse_plan,
    plan_of,
    plan_path,
    read_plan,
    weights_file,
    write_plan,
)
from cps4_monai.plan.plan import Plan, PlanError

__all__ = [
    "FILE_NAME",
    "Plan",
    "PlanError",
    "check_plan",
    "check_same_pixels",
    "check_unchanged",
    "parse_plan",
    "plan_of",
    "plan_path",
    "read_plan",
    "weights_file",
    "write_plan",
]
