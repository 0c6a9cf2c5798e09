"""State as tensors and plain types, in files that load with ``weights_only=True``."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cps4_monai.atomic_file import write_atomically


def plain(value: Any, where: str = "state") -> Any:
    """A copy of nested state made of what ``torch.load(weights_only=True)`` reads: tensors and plain types.

    NumPy scalars become Python's, tuples and the like stay what they are.

    Args:
        value: nested mappings, lists, tuples, sets, tensors, numbers, strings, None.
        where: name of `value`, for the error.

    Raises:
        TypeError: anything else in it, named.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str, bytes, torch.dtype, torch.device):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Counter):
        return Counter({plain(key, where): count for key, count in value.items()})
    if isinstance(value, Mapping):
        pairs = [(plain(key, where), plain(item, f"{where}.{key}")) for key, item in value.items()]
        return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)
    if isinstance(value, (list, tuple)):
        return type(value)([plain(item, f"{where}[{index}]") for index, item in enumerate(value)])
    if isinstance(value, Enum):
        return plain(value.value, where)
    if isinstance(value, (str, int, float)):  # subclasses of them
        return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))
    raise TypeError(
        f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain types only: "
        "convert it in the state_dict that it comes from"
    )


def save_plain(path: str | Path, state: Any) -> Path:
    """Writes nested state atomically, in a form that loads with ``weights_only=True``.

    Raises:
        TypeError: see :func:`plain`.
    """
    checked = plain(state)
    return write_atomically(path, lambda beside: torch.save(checked, beside))
