"""What flags were calibrated to say of one network's results: chances, from patients that its training never saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cps4_monai.levels.statistics import Confidence

# Kept within these before log odds are taken, which run away beyond them. The confidence in a label is in doubt where
# its level is, so that below 0.45 it says nothing of an outline any more (docs/results/flags.md).
CONFIDENCE_RANGE, OUTLINE_RANGE = (0.45, 0.98), (0.02, 0.98)


@dataclass(frozen=True)
class Chance:
    """Logistic regression: named quantities to the chance of something.

    Attributes:
        intercept: log odds where all quantities are 0.
        weights: log odds for each unit of a quantity, by its name.
    """

    intercept: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        numbers = [self.intercept, *self.weights.values()]
        if not all(isinstance(n, int | float) and np.isfinite(n) for n in numbers):
            raise ValueError(
                f"a chance has intercept and weights {numbers}; expected finite numbers. Fix: calibrate again"
            )

    def __call__(self, quantities: Mapping[str, float]) -> float:
        """The chance, in [0, 1].

        Raises:
            ValueError: a quantity is missing.
        """
        missing = sorted(self.weights.keys() - quantities.keys())
        if missing:
            raise ValueError(
                f"no quantity is called {missing}; expected some of {sorted(quantities)}. Fix: calibrate again"
            )
        odds = self.intercept + sum(weight * quantities[name] for name, weight in self.weights.items())
        return float(1.0 / (1.0 + np.exp(-np.clip(odds, -50.0, 50.0))))

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {"intercept": self.intercept, "weights": dict(self.weights)}


@dataclass(frozen=True)
class FlagCalibration:
    """Chances and limits of `low_confidence` and `unusual_contrast`; a plan keeps them as ``flags``.

    Attributes:
        outline: by kind of structure: the chance that its outline is good, from the log odds of the confidence in its
            outline, called ``outline_confidence``, or, as until version 0.3.0, of that in its label, ``confidence``.
            Empty: `low_confidence` compares the confidence in the outline itself with a threshold.
        good_dice: what counts as good: a Dice of at least this.
        outline_limit: `low_confidence` below this chance.
        failure: chance that the result cannot be used, from :func:`cps4_monai.levels.traits.scan_traits`; None: there
            is no `unusual_contrast`.
        failure_limit: `unusual_contrast` above this chance.
        calibrated_on: for people: which patients, how many.
    """

    outline: Mapping[str, Chance] = field(default_factory=dict)
    good_dice: float = 0.8
    outline_limit: float = 0.5
    failure: Chance | None = None
    failure_limit: float = 0.5
    calibrated_on: str = ""

    def outline_chance(self, kind: str, confidence: Confidence) -> float | None:
        """Chance that the outline of a structure is good; None where that was not calibrated for its kind.

        Also None where the confidence that it goes by is not known.
        """
        chance = self.outline.get(kind)
        quantities = outline_quantities(confidence)
        return None if chance is None or not chance.weights.keys() <= quantities.keys() else chance(quantities)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, the form of a plan's ``flags``."""
        return {
            "outline": {kind: chance.to_dict() for kind, chance in self.outline.items()},
            "good_dice": self.good_dice,
            "outline_limit": self.outline_limit,
            "failure": None if self.failure is None else self.failure.to_dict(),
            "failure_limit": self.failure_limit,
            "calibrated_on": self.calibrated_on,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FlagCalibration:
        """The inverse of :meth:`to_dict`; what is missing has its default, and an empty mapping is no calibration.

        Raises:
            ValueError: a name or value that cannot be one of these.
        """
        unknown = sorted(content.keys() - cls.__annotations__.keys())
        if unknown:
            raise ValueError(
                f"flags hold {unknown}; expected some of {list(cls.__annotations__)}. Fix: calibrate again"
            )
        try:
            values = dict(content)
            values["outline"] = {kind: Chance(**chance) for kind, chance in content.get("outline", {}).items()}
            _check_quantities(values["outline"])
            values["failure"] = Chance(**content["failure"]) if content.get("failure") else None
            for name in ("good_dice", "outline_limit", "failure_limit"):
                if not isinstance(number := values.get(name, 0.0), int | float) or isinstance(number, bool):
                    raise TypeError(f"{name} is {number!r}, no number")
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise ValueError(
                f"flags are {content!r} ({error}); expected the form of a plan. Fix: calibrate again"
            ) from error


def _check_quantities(outline: Mapping[str, Chance]) -> None:
    known = outline_quantities(Confidence(0.5, 0.5)).keys()
    wrong = sorted({name for chance in outline.values() for name in chance.weights} - known)
    if wrong:
        raise ValueError(f"flags tell outlines by {wrong}; expected some of {sorted(known)}. Fix: calibrate again")


def outline_quantities(confidence: Confidence) -> dict[str, float]:
    """What a structure's outline may be judged by, as log odds log(p / (1 - p)); what is not known is left out."""
    known = {"confidence": log_odds(confidence.label, CONFIDENCE_RANGE)}
    if confidence.outline is not None:
        known["outline_confidence"] = log_odds(confidence.outline, OUTLINE_RANGE)
    return known


def log_odds(confidence: float, within: tuple[float, float]) -> float:
    """log(p / (1 - p)) of a mean probability, kept within a range."""
    kept = min(max(confidence, within[0]), within[1])
    return float(np.log(kept / (1.0 - kept)))
