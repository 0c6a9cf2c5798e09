"""State made plain, and the file that holds it."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from cps4_monai.handlers.files import plain, save_plain


def test_state_becomes_plain_and_loads_with_weights_only(tmp_path):
    class Mode(str, enum.Enum):
        MAX = "max"

    state = {
        "score": np.float64(0.5),
        "count": np.int32(3),
        "flag": np.bool_(True),
        "milestones": Counter([2, 2]),
        "ordered": OrderedDict(a=1),
        "nested": [(1, "x"), {"mode": Mode.MAX}, None],
        "weights": torch.nn.Parameter(torch.ones(2)),
    }
    loaded = torch.load(save_plain(tmp_path / "s.pt", state), weights_only=True)
    assert loaded["score"] == 0.5 and type(loaded["score"]) is float
    assert loaded["count"] == 3 and loaded["flag"] is True
    assert loaded["milestones"] == Counter({2: 2}) and loaded["ordered"] == OrderedDict(a=1)
    assert loaded["nested"] == [(1, "x"), {"mode": "max"}, None] and type(loaded["nested"][1]["mode"]) is str
    assert torch.equal(loaded["weights"], torch.ones(2)) and not loaded["weights"].requires_grad


def test_what_is_not_plain_is_named_by_its_place():
    with pytest.raises(TypeError, match=r"state\.a\[1\]\.b is a object"):
        plain({"a": [0, {"b": object()}]})
