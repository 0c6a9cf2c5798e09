"""Equal budgets: what must be the same for all methods of a study, or the comparison is of budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cps4_monai.bench.matrix import SET_BY_THE_STUDY, STAGE2, Cell
from cps4_monai.bench.study import StudyError
from cps4_monai.fingerprint import fingerprint, node_of
from cps4_monai.known_settings import node_at

# What makes a method the method it is; every other setting of the bundle that decides a result is budget.
METHOD_OWN = (
    "train#method",
    "train#network",
    "train#provider",
    "train#decoded_labels",
    "train#unlabeled_dataset",
    "train#stage#decode_first_epoch",
    "train#stage#ramp_up_updates",
    "ramp_up_updates",
    "validate#student_evaluator",
    "stage1",
    "prompt_map",
    "cache_prompt_logits",
)
_MISSING = object()
# id -> what it is called in the report; what has no title here is called by its id.
TITLES: dict[str, str] = {
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
STAGE1_OWN = ("stage1#centre_prompts",)  # what a variant may do to its prompts
STAGE1_TITLES: dict[str, str] = {
    "stage1#max_epochs": "stage 1: epochs",
    "stage1#iterations_per_epoch": "stage 1: iterations per epoch",
    "stage1#batch_size": "stage 1: batch",
    "stage1#image_encoder": "stage 1: image encoder",
    "stage1#centre_prompts": "stage 1: centred prompts",
    "stage1#lr_pretrained": "stage 1: learning rate of pretrained parts",
    "stage1#lr_new": "stage 1: learning rate of new parts",
    "stage1#lr_layer_decay": "stage 1: learning rate of each block over the next",
    "stage1#lr_scheduler": "stage 1: learning-rate schedule",
    "stage1#geometry": "stage 1: geometric augmentation",
}


def check_equal_budgets(cells: Sequence[Cell], may_differ: Sequence[str] = ()) -> None:
    """Refuses a study whose methods are trained with other networks, iterations, augmentation, batches or validation.

    Of stage 1, whose objective is a method's own, encoders, iterations, batches, rates and augmentation must be equal.

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
    for cell in cells[1:]:
        _refuse(cells[0], cell, _unequal(cells[0], cell, may_differ))
    with_stage1 = [cell for cell in cells if cell.stage1 is not None]
    budget = [setting for setting in STAGE1_TITLES if setting not in (*STAGE1_OWN, *may_differ)]
    for cell in with_stage1[1:]:
        first = with_stage1[0]
        _refuse(first, cell, (s for s in budget if _stated(first, s) != _stated(cell, s)))


def _refuse(first: Cell, cell: Cell, unequal: Iterator[str]) -> None:
    """Refuses two cells for the first of the ids whose values differ."""
    for setting in unequal:
        title = {**TITLES, **STAGE1_TITLES}.get(setting, "a setting")
        raise StudyError(
            f"unequal budgets: {title} ({setting}) is {_stated(first, setting)} for {first.name} and "
            f"{_stated(cell, setting)} for {cell.name}; set it in the study's overlay or settings, or add {setting!r} "
            "to 'may_differ', which the report then states"
        )


def _unequal(first: Cell, second: Cell, may_differ: Sequence[str]) -> Iterator[str]:
    """Ids of the budget whose values differ: those with a title first, by their title's id."""
    left_out = (*METHOD_OWN, *SET_BY_THE_STUDY, *may_differ)
    leaves = {leaf for cell in (first, second) for leaf in fingerprint(cell.config, STAGE2, cell.base)}
    counted = {leaf for leaf in leaves if not any(leaf == name or leaf.startswith(f"{name}#") for name in left_out)}
    budget = {_titled(leaf) for leaf in counted}
    for setting in [*(s for s in TITLES if s in budget), *sorted(budget - TITLES.keys())]:
        written = [node_at(cell.config, setting, _MISSING) for cell in (first, second)]
        # What no base has is a method's own; equal references lead to another id, which is compared by itself.
        own = setting not in TITLES and node_at(first.base, setting, _MISSING) is _MISSING
        if not own and written[0] != written[1] and _stated(first, setting) != _stated(second, setting):
            yield setting


def _stated(cell: Cell, setting: str) -> str:
    return json.dumps(node_of(cell.config, setting), sort_keys=True)


def _titled(leaf: str) -> str:
    """The id with a title that a leaf belongs to, or the leaf itself."""
    return next((s for s in TITLES if leaf == s or leaf.startswith(f"{s}#")), leaf)


def budget_table(cells: Sequence[Cell]) -> list[tuple[str, str, dict[str, str]]]:
    """What the report states: (id, title, value -> the methods that have it), stage 1 last, unset values left out."""
    rows = []
    for setting, title in {**TITLES, **STAGE1_TITLES}.items():
        users: dict[str, list[str]] = {}
        for cell in cells:
            if setting in STAGE1_TITLES and cell.stage1 is None:
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
