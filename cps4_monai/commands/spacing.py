"""The option ``--assume-spacing``: of scans whose header has none."""

from __future__ import annotations

import click


def parse_spacing(context: click.Context, parameter: click.Parameter, value: str | None) -> list[float] | None:
    """One number of mm, or three along X, Y and Z.

    Raises:
        click.BadParameter: something else.
    """
    if value is None:
        return None
    try:
        numbers = [float(part) for part in value.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(0 < n < float("inf") for n in numbers):
        raise click.BadParameter(f"{value!r}; expected one or three positive numbers of mm, e.g. 4,0.6,0.6")
    return numbers
