"""How a run is put together: from the plan and the settings to data, trainers, validation and handlers in their order.

``bundle/configs/train.json`` names these functions and gives them its settings and what it builds itself (networks,
optimisers, losses, methods): whatever stands in a config wins, the rest is here. `stage1` and `stage2` read from top to
bottom; `training.in_order` has the handlers of both.
"""

from __future__ import annotations

from cps4_monai.assembly.context import Context, Setup, Stage, run_context
from cps4_monai.assembly.slices import (
    check_data,
    labeled_slices,
    on_device,
    slice_cache,
    starting_network,
    unlabeled_slices,
    volumes,
)
from cps4_monai.assembly.validation import slice_inferer, spine_dice

__all__ = [
    "Context",
    "Setup",
    "Stage",
    "check_data",
    "labeled_slices",
    "on_device",
    "run_context",
    "slice_cache",
    "slice_inferer",
    "spine_dice",
    "starting_network",
    "unlabeled_slices",
    "volumes",
]
