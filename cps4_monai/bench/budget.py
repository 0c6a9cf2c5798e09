"""Equal budgets: what must be the same for all methods of a study, or the comparison is of budgets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cps4_monai.bench.matrix import DATA, SET_BY_THE_STUDY, STAGE2, Cell
from cps4_monai.bench.study import StudyError
from cps4_monai.file_hash import by_content
from cps4_monai.fingerprint import depends_on, fingerprint, node_of
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
# Of stage 1 the same: objective, heads, what may be done to prompts, and how the result is scored and written.
STAGE1_OWN = (
    "training_stage1",  # of a control that is not trained
    "stage1#loss",
    "stage1#pixel_weight",
    "stage1#token_weight",
    "stage1#method",
    "stage1#network",
    "stage1#network_def#_target_",
    "stage1#network_def#projection",
    "stage1#network_def#centre_prompts",
    "stage1#centre_prompts",
    "stage1#optimizer#_target_",
    "stage1#validate#additional_metrics",
    "stage1#validate#best#save",
    "prompt_map",
)
STAGE1_TITLES: dict[str, str] = {
    "stage1#max_epochs": "stage 1: epochs",
    "stage1#iterations_per_epoch": "stage 1: iterations per epoch",
    "stage1#batch_size": "stage 1: batch",
    "stage1#image_encoder": "stage 1: image encoder",
    "stage1#text_encoder": "stage 1: text encoder",
    "stage1#embedding_dim": "stage 1: size of the embeddings",
    "stage1#centre_prompts": "stage 1: centred prompts",
    "stage1#lr_pretrained": "stage 1: learning rate of pretrained parts",
    "stage1#lr_new": "stage 1: learning rate of new parts",
    "stage1#lr_layer_decay": "stage 1: learning rate of each block over the next",
    "stage1#optimizer#_target_": "stage 1: optimiser",
    "stage1#optimizer#weight_decay": "stage 1: weight decay",
    "stage1#lr_scheduler": "stage 1: learning-rate schedule",
    "stage1#geometry": "stage 1: geometric augmentation",
    "stage1#val_interval": "stage 1: epochs between validations",
    "stage1#early_stopping_patience": "stage 1: early stopping",
}
_ALL_TITLES = {**TITLES, **STAGE1_TITLES}
NETWORK, WRAPPED = "network_def", "train#network"  # what is deployed, and what a method trains around it


def check_equal_budgets(cells: Sequence[Cell], may_differ: Sequence[str] = ()) -> None:
    """Refuses a study whose methods are trained with other networks, iterations, augmentation, batches or validation.

    Of stage 1, too, everything must be equal that an objective does not bring along (``STAGE1_OWN``).

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
        pair = (cells[0], cell)
        leaves = (leaf for one in pair for leaf in fingerprint(one.config, STAGE2, one.base))
        _refuse(*pair, _unequal(*pair, leaves, (*METHOD_OWN, *may_differ)))
        _refuse(*pair, _unequal_networks(*pair, may_differ))
    with_stage1 = [cell for cell in cells if cell.stage1 is not None]
    for cell in with_stage1[1:]:
        pair = (with_stage1[0], cell)
        leaves = (leaf for one in pair for leaf in one.stage1 or () if leaf != DATA)
        _refuse(*pair, _unequal(*pair, leaves, (*STAGE1_OWN, *may_differ)))


def _refuse(first: Cell, cell: Cell, unequal: Iterable[str]) -> None:
    """Refuses two cells for the first of the ids whose values differ."""
    for setting in unequal:
        title = {**_ALL_TITLES, WRAPPED: "deployed network"}.get(setting, "a setting")
        stated = [_deployed(one) if setting == WRAPPED else _stated(one, setting) for one in (first, cell)]
        raise StudyError(
            f"unequal budgets: {title} ({setting}) is {stated[0]} for {first.name} and {stated[1]} for {cell.name}; "
            f"set it in the study's overlay or settings, or add {setting!r} to 'may_differ', as the report then states"
        )


def _unequal(first: Cell, second: Cell, leaves: Iterable[str], left_out: Sequence[str]) -> Iterator[str]:
    """Ids of the budget whose values differ: those with a title first, by their title's id.

    Args:
        first: a cell.
        second: another one.
        leaves: ids that one of the two depends on.
        left_out: ids that may differ, with all below them.
    """
    names = (*SET_BY_THE_STUDY, *left_out)
    counted = {leaf for leaf in leaves if not any(leaf == name or leaf.startswith(f"{name}#") for name in names)}
    budget = {_titled(leaf) for leaf in counted}
    for setting in [*(s for s in _ALL_TITLES if s in budget), *sorted(budget - _ALL_TITLES.keys())]:
        written = [node_at(cell.config, setting, _MISSING) for cell in (first, second)]
        if written[0] == written[1] or (setting not in _ALL_TITLES and _is_a_methods_own(first, second, setting)):
            continue  # equal references lead to another id, which is compared by itself
        if _stated(first, setting) != _stated(second, setting):
            yield setting


def _is_a_methods_own(first: Cell, second: Cell, setting: str) -> bool:
    """Whether one of the two brings the id along: with an object in place of the base's, or as what no base has.

    An argument of an object that both have is none, whether the base states it or not.
    """
    nodes = [node_at(cell.config, setting, _MISSING) for cell in (first, second)]
    if node_at(first.base, setting, _MISSING) is not _MISSING:
        return _MISSING in nodes or isinstance(nodes[0], Mapping) != isinstance(nodes[1], Mapping)
    owner = f"{setting.rpartition('#')[0]}#_target_"
    classes = [node_at(config, owner, _MISSING) for config in (first.base, first.config, second.config)]
    return _MISSING in classes or classes[1] != classes[2]


def _unequal_networks(first: Cell, second: Cell, may_differ: Sequence[str]) -> Iterator[str]:
    """The id of what is trained, where another network than the study's ``network_def`` is deployed out of it."""
    pair = (first, second)
    own = [cell for cell in pair if not depends_on(cell.config, WRAPPED, NETWORK)]
    if own and not {NETWORK, WRAPPED} & {*may_differ} and _deployed(first) != _deployed(second):
        yield WRAPPED


def _deployed(cell: Cell) -> str:
    """The network that a method deploys, without what it trains around it; as it is written where it is its own."""
    return _stated(cell, NETWORK if depends_on(cell.config, WRAPPED, NETWORK) else WRAPPED)


def _stated(cell: Cell, setting: str) -> str:
    return json.dumps(_resolved(cell, node_of(cell.config, setting)), sort_keys=True)


def _resolved(cell: Cell, value: Any) -> Any:
    """A value with what its plain references lead to in their place; those to objects stay."""
    if isinstance(value, Mapping):
        return {key: _resolved(cell, item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("@"):
        name = value[1:].replace("::", "#")
        target = node_of(cell.config, name)
        return value if isinstance(target, Mapping) or node_at(cell.config, name, _MISSING) is _MISSING else target
    return value


def _titled(leaf: str) -> str:
    """The id with a title that a leaf belongs to, or the leaf itself."""
    return next((s for s in _ALL_TITLES if leaf == s or leaf.startswith(f"{s}#")), leaf)


def budget_table(cells: Sequence[Cell]) -> list[tuple[str, str, dict[str, str]]]:
    """What the report states: (id, title, value -> the methods that have it), stage 1 last, unset values left out."""
    rows = []
    for setting, title in _ALL_TITLES.items():
        users: dict[str, list[str]] = {}
        for cell in cells:
            if setting in STAGE1_TITLES and cell.stage1 is None:
                continue
            users.setdefault(_plain(_resolved(cell, node_of(cell.config, setting))), []).append(cell.method)
        by_value = {value: ", ".join(dict.fromkeys(names)) for value, names in users.items()}
        if set(by_value) - {"null"}:
            rows.append((setting, title, by_value))
    return rows


def _plain(value: Any) -> str:
    """Text of a value; of an object's description, its class and arguments without references.

    Files and folders stand by name and content: the text is published.
    """
    if isinstance(value, Mapping):
        shown = {k: v for k, v in value.items() if not str(k).startswith("_") and not str(v).startswith(("@", "$@"))}
        shown = by_content(shown)
        target = str(value.get("_target_", "")).rpartition(".")[2]
        arguments = ", ".join(f"{key}={json.dumps(item)}" for key, item in shown.items())
        return f"{target}({arguments})" if target else arguments
    return json.dumps(by_content({"": value})[""])
