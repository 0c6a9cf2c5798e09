"""Values of DICOM tags: missing and empty ones are the same, numbers are finite, text is one printable line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cps4_monai.encoding import printable


def values(value: Any) -> list[Any]:
    """Values of a tag; none where it is missing or empty."""
    if value is None or value == "":
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value]
    return [v for v in value if v is not None and v != ""]


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers, or None."""
    given = tuple(float(v) for v in values(value))
    return given if len(given) == count and all(math.isfinite(v) for v in given) else None


def whole_number(value: Any) -> int | None:
    """The first of a tag's whole numbers, or None."""
    given = values(value)
    return int(given[0]) if given else None


def text(dataset: Any, name: str) -> str:
    """A tag in one line of printable characters."""
    joined = "\\".join(str(v) for v in values(dataset.get(name)))
    return printable(joined).strip()


def functional_group(groups: Sequence[Any], name: str, dataset: Any) -> Any:
    """The item of a functional group, the frame's own before the shared one; in classic DICOM the file itself."""
    for group in groups:
        items = group.get(name)
        if items:
            return items[0]
    return dataset
