"""Which metric chooses the weights: one that no validation gives is refused before anything is trained."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ignite.metrics import Metric

from cps4_monai.handlers import AttentionLocalisation
from cps4_monai.metrics.conventions import CONVENTIONS
from cps4_monai.metrics.spine_dice import SpineDiceHandler

logger = logging.getLogger(__name__)


def check_chosen_by(
    name: str | None,
    metrics: Mapping[str, Metric],
    handlers: Sequence[Any] = (),
    setting: str = "validate#best#metric",
    offered: Collection[str] = (),
) -> None:
    """Refuses a metric that the validation does not have.

    Metrics and handlers of neither this package nor MONAI may give values that nobody knows before they do: with one of
    them a name that is not known is warned of, and not refused.

    Args:
        name: of the metric that chooses the weights; None: the key metric.
        metrics: name -> metric, of the evaluator.
        handlers: the config's own.
        setting: what has the name, for messages.
        offered: further names that may stand there, of metrics that are made when they are asked for.

    Raises:
        ValueError: there is no such metric; says which ones there are.
    """
    known = {value for attached, metric in metrics.items() for value in (attached, *_beside(metric))}
    known |= set(offered)
    of_classes = {value for attached, metric in metrics.items() for value in _of_classes(attached, metric)}
    if name is None or name in known | of_classes:
        return
    told = f"{setting} is {name!r}, and the validation has no such metric; expected one of {sorted(known)}"
    if of_classes:
        told += f", or that of a structure, e.g. {min(of_classes)!r}"
    close = difflib.get_close_matches(str(name), sorted(known | of_classes), n=1)
    if any(_may_give_more(item) for item in (*metrics.values(), *handlers)):
        logger.warning("%s. Fix: nothing, if a metric or a handler of your own gives it; else name one of these", told)
        return
    raise ValueError(f"{told}. Fix: {f'did you mean {close[0]!r}?' if close else 'name one of these'}")


def _beside(metric: Metric) -> Iterator[str]:
    """What a metric writes into ``engine.state.metrics`` beside the value under its own name."""
    if isinstance(metric, SpineDiceHandler):
        scores = [f"{score}_{convention}" for score in ("dice", "iou") for convention in CONVENTIONS]
        yield from (metric.prefix + value for value in (*scores, "missed", "false"))
    elif isinstance(metric, AttentionLocalisation):
        yield from metric.beside


def _of_classes(name: str, metric: Metric) -> Iterator[str]:
    """What it writes by structure, those that no label shows included."""
    if isinstance(metric, SpineDiceHandler):
        yield from (f"{metric.prefix}dice_b_{label}" for label in metric.class_names[1:])
    elif isinstance(metric, AttentionLocalisation):
        yield from (f"{score}_{label}" for score in (name, metric.patch_auc) for label in metric.class_names[1:])


def _may_give_more(item: Any) -> bool:
    package = type(item).__module__.partition(".")[0]
    return package not in ("cps4_monai", "monai") and (isinstance(item, Metric) or package != "ignite")
