"""Thresholds of the flags from cases whose truth is known, by cross-validation over subjects."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """A threshold on a quantity that is low where something is wrong, and its rates.

    Attributes:
        threshold: a case is flagged below it; chosen on all cases.
        hit_rate: share of the wrong cases flagged, each by the threshold chosen without its subject; NaN without any.
        false_alarm_rate: share of the right cases flagged, likewise; NaN without any.
        wrong: number of wrong cases.
        right: number of right cases.
    """

    threshold: float
    hit_rate: float
    false_alarm_rate: float
    wrong: int
    right: int


def calibrate(
    values: Sequence[float] | np.ndarray,
    is_wrong: Sequence[bool] | np.ndarray,
    subjects: Sequence[Hashable],
    max_false_alarm: float = 0.05,
) -> Calibration:
    """Threshold that flags most wrong cases at a bounded rate of false alarms, judged leaving one subject out.

    For `level_ambiguous`: values are the margins of decodings of train and val scans, of their crops and shifts, and a
    case is wrong where any level differs from the truth. For `low_confidence`: values are the structures' confidences,
    wrong where the Dice of the structure is low.

    Args:
        values: (N,) finite quantities, low where something is wrong.
        is_wrong: (N,) truth.
        subjects: (N,) subject of each case; crops and shifts of one scan share it.
        max_false_alarm: largest share of right cases flagged, in [0, 1].

    Raises:
        ValueError: lengths that differ, no case, values that are not finite, or a rate outside [0, 1].
    """
    scores = np.asarray(values, dtype=np.float64)
    wrong = np.asarray(is_wrong, dtype=bool)
    if not len(scores) or len(scores) != len(wrong) or len(scores) != len(subjects):
        raise ValueError(
            f"got {len(scores)} values, {len(wrong)} truths and {len(subjects)} subjects; expected as many of each"
        )
    if not np.isfinite(scores).all():
        raise ValueError("values hold numbers that are not finite; leave out cases without a chain")
    if not 0.0 <= max_false_alarm <= 1.0:
        raise ValueError(f"max_false_alarm is {max_false_alarm}; expected a rate in [0, 1]")
    names: dict[Hashable, int] = {}
    subject = np.array([names.setdefault(s, len(names)) for s in subjects])
    flagged = np.zeros(len(scores), dtype=bool)
    for left_out in range(len(names)):
        test = subject == left_out
        rest = ~test if len(names) > 1 else test
        flagged[test] = scores[test] < choose_threshold(scores[rest], wrong[rest], max_false_alarm)
    return Calibration(
        threshold=choose_threshold(scores, wrong, max_false_alarm),
        hit_rate=float(flagged[wrong].mean()) if wrong.any() else float("nan"),
        false_alarm_rate=float(flagged[~wrong].mean()) if (~wrong).any() else float("nan"),
        wrong=int(wrong.sum()),
        right=int((~wrong).sum()),
    )


def choose_threshold(values: np.ndarray, is_wrong: np.ndarray, max_false_alarm: float) -> float:
    """Smallest threshold with the most hits among those that flag at most that share of the right cases.

    Without a wrong case nothing tells where to cut: it is the largest threshold within the bound.

    Args:
        values: (N,) quantities; a case is flagged strictly below the threshold.
        is_wrong: (N,) truth.
        max_false_alarm: bound in [0, 1].
    """
    cuts = np.concatenate([np.unique(values), [np.nextafter(values.max(), np.inf)]])
    right, bad = np.sort(values[~is_wrong]), np.sort(values[is_wrong])
    alarms = np.searchsorted(right, cuts, side="left") / max(len(right), 1)
    allowed = cuts[alarms <= max_false_alarm]
    if not len(bad):
        return float(allowed[-1])
    hits = np.searchsorted(bad, allowed, side="left")
    first = allowed[np.argmax(hits == hits.max())]
    higher = values[values >= first]
    return float(0.5 * (first + values[values < first].max())) if hits.max() and len(higher) else float(first)
