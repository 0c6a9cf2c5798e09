"""Equal budgets: what must be the same for all methods of a study, or the comparison is of budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cps4_monai.bench.effective import node_of
from cps4_monai.bench.matrix import Cell
from cps4_monai.bench.study import StudyError

# id -> what it is called in the report.
BUDGET: dict[str, str] = {
    "network_def": "network",
    "features": "network's features",
    "finetune_from": "initial weights",
    "spacing_mm": "pixel spacing, mm",
    "slice_size": "slice size",
    "in_plane_mode": "field of view",
    "unlabeled_slices": "single slices as unlabeled data",
    "max_epochs": "epochs",
    "iterations_per_epoch": "iterations per epoch",
    "batch_size_labeled": "labeled batch",
    "batch_size_unlabeled": "unlabeled batch",
    "train#optimizer": "optimiser",
    "learning_rate": "learning rate",
    "learning_rate_factors": "factors of the learning rate",
    "weight_decay": "weight decay",
    "train#lr_scheduler": "learning-rate schedule",
    "gradient_clip_norm": "gradient clipping",
    "accumulation_steps": "accumulation steps",
    "amp": "mixed precision",
    "geometry": "geometric augmentation",
    "intensity": "intensity augmentation",
    "views": "views of the unlabeled batch",
    "batch_statistics": "slices that BatchNorm sees together",
    "ema_decay": "decay of the moving average",
    "val_interval": "epochs between validations",
    "early_stopping_patience": "early stopping",
    "validate#key_metric": "validation score",
    "validate#best#metric": "score that chooses the weights",
}
STAGE1_BUDGET: dict[str, str] = {
    "stage1#max_epochs": "stage 1: epochs",
    "stage1#iterations_per_epoch": "stage 1: iterations per epoch",
    "stage1#batch_size": "stage 1: batch",
    "stage1#image_encoder": "stage 1: image encoder",
    "stage1#network_def#centre_prompts": "stage 1: centred prompts",
    "stage1#lr_pretrained": "stage 1: learning rate of pretrained parts",
    "stage1#lr_new": "stage 1: learning rate of new parts",
    "stage1#lr_scheduler": "stage 1: learning-rate schedule",
    "stage1#geometry": "stage 1: geometric augmentation",
}


def check_equal_budgets(cells: Sequence[Cell], may_differ: Sequence[str] = ()) -> None:
    """Refuses a study whose methods are trained with other networks, iterations, augmentation, batches or validation.

    Args:
        cells: of the study.
        may_differ: ids that the study lets differ.

    Raises:
        StudyError: ids whose values differ between methods, or an epoch that is a pass over the data, which is shorter
            for some methods than for others.
    """
    open_ended = [cell.method for cell in cells if node_of(cell.config, "iterations_per_epoch") is None]
    if open_ended and "iterations_per_epoch" not in may_differ:
        raise StudyError(
            f"method {open_ended[0]}: iterations_per_epoch is null, a pass over the data, which has another length for "
            "each method and share; set a number of iterations in the study's overlay or settings"
        )
    first = cells[0]
    for cell in cells[1:]:
        for setting, title in BUDGET.items():
            if setting in may_differ:
                continue
            ours, theirs = (json.dumps(node_of(one.config, setting), sort_keys=True) for one in (first, cell))
            if ours != theirs:
                raise StudyError(
                    f"unequal budgets: {title} ({setting}) is {ours} for {first.name} and {theirs} for {cell.name}; "
                    f"set it in the study's overlay or settings, or add {setting!r} to 'may_differ', which the report "
                    "then states"
                )


def budget_table(cells: Sequence[Cell]) -> list[tuple[str, str, dict[str, str]]]:
    """What the report states: (id, title, value -> the methods that have it), stage 1 last, unset values left out."""
    rows = []
    for setting, title in {**BUDGET, **STAGE1_BUDGET}.items():
        users: dict[str, list[str]] = {}
        for cell in cells:
            if setting in STAGE1_BUDGET and cell.stage1 is None:
                continue
            users.setdefault(_plain(node_of(cell.config, setting)), []).append(cell.method)
        by_value = {value: ", ".join(dict.fromkeys(names)) for value, names in users.items()}
        if set(by_value) - {"null"}:
            rows.append((setting, title, by_value))
    return rows


def _plain(value: Any) -> str:
    """Text of a value; of an object's description, its class and arguments without references."""
    if isinstance(value, Mapping):
        shown = {k: v for k, v in value.items() if not str(k).startswith("_") and not str(v).startswith(("@", "$@"))}
        target = str(value.get("_target_", "")).rpartition(".")[2]
        arguments = ", ".join(f"{key}={json.dumps(item)}" for key, item in shown.items())
        return f"{target}({arguments})" if target else arguments
    return json.dumps(value)
