"""Numbers that augmentation is drawn from: what has no meaning is refused before a slice is drawn."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

_COUNTS = {1: "one number", 2: "two numbers"}


def check_numbers(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    count: int | tuple[int, ...] = 2,
    above: bool = False,
    whole: bool = False,
) -> None:
    """Refuses a setting that is not so many finite numbers between two bounds; their order is free.

    >>> check_numbers("gamma", (0.6, 1.6), 0, above=True)
    >>> check_numbers("gamma", (0.0, 1.6), 0, above=True)
    Traceback (most recent call last):
    ValueError: gamma is (0.0, 1.6); expected two numbers above 0

    Args:
        name: of the setting, for the message.
        value: a number, or several.
        low: smallest value.
        high: largest value.
        count: how many numbers, or the counts that there may be; 1 is a number by itself.
        above: `low` itself is refused.
        whole: only whole numbers, written as such: 3 and not 3.0, which what takes them refuses later.

    Raises:
        ValueError: says what was found and expected.
    """
    counts = (count,) if isinstance(count, int) else count
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    right = isinstance(value, list | tuple) == (len(numbers) != 1) and len(numbers) in counts
    if right and all(_fits(number, low, high, above, whole) for number in numbers):
        return
    told = " or ".join(_COUNTS[c] for c in counts)
    told = told.replace("number", "whole number") if whole else told
    expected = f"{told} {_bounds(low, high, above)}".rstrip()
    point = whole and any(isinstance(number, float) and number.is_integer() for number in numbers)
    raise ValueError(f"{name} is {value!r}; expected {expected}{', without a decimal point' if point else ''}")


def _fits(number: Any, low: float, high: float, above: bool, whole: bool) -> bool:
    if isinstance(number, bool) or not isinstance(number, Integral if whole else Real):
        return False
    value = float(number)
    return math.isfinite(value) and low <= value <= high and not (above and value == low)


def _bounds(low: float, high: float, above: bool) -> str:
    if math.isinf(low):
        return "" if math.isinf(high) else f"of {high:g} or less"
    begin = f"above {low:g}" if above else f"of {low:g}"
    return f"{begin} to {high:g}" if not math.isinf(high) else begin if above else f"{begin} or more"
