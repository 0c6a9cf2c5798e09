"""How sure the numbering is: the best assignment against the same chain one level up and one level down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cps4_monai.levels.chain import Candidates


@dataclass(frozen=True)
class LevelMargin:
    """Evidence for the numbering.

    Attributes:
        margin: nats per structure by which the assignment beats the better of its two shifts; above 0 the evidence
            favours it, below 0 only order and spacing hold it. Capped by -log(probability floor). NaN without a chain.
        score: mean log probability of the assignment per structure (weighted).
        score_up: the same with every structure one vertebral level higher.
        score_down: one lower. A structure shifted out of the trained levels counts as background.
        structures: number of structures in the chain.
        anchored: the sacrum was found, or one of the two structures on it (of the trained ones) with the view below it
            that shows that nothing else lies between.
    """

    margin: float
    score: float
    score_up: float
    score_down: float
    structures: int
    anchored: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain types; numbers that do not exist are None."""
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}


NO_CHAIN = LevelMargin(float("nan"), float("nan"), float("nan"), float("nan"), 0, False)


def shift_margin(candidates: Candidates, assigned: np.ndarray, vertebral_step: int, anchored: bool) -> LevelMargin:
    """Margin of an assignment over itself shifted by one vertebral level.

    Args:
        candidates: the candidates with their evidence.
        assigned: (n,) index of the level of each, -1 for dropped.
        vertebral_step: levels from one vertebra to the next (2 where discs are levels too).
        anchored: see :class:`LevelMargin`.
    """
    rows = np.flatnonzero(assigned >= 0)
    if len(rows) == 0:
        return NO_CHAIN
    weight = candidates.weight[rows]
    levels = candidates.log_levels.shape[1]

    def score(shift: int) -> float:
        target = assigned[rows] + shift
        inside = (target >= 0) & (target < levels)
        value = candidates.log_levels[rows, np.where(inside, target, 0)]
        value = np.where(inside & np.isfinite(value), value, candidates.log_background[rows])
        return float(np.average(value, weights=weight))

    best, up, down = score(0), score(vertebral_step), score(-vertebral_step)
    structures = len(np.unique(assigned[rows]))
    return LevelMargin(best - max(up, down), best, up, down, structures, anchored)
