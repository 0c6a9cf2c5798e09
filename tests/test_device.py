"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.device import select_device


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    assert select_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert select_device("cpu") == torch.device("cpu") == select_device(torch.device("cpu"))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected auto, cpu, cuda"):
        select_device(name)


def test_a_gpu_beyond_those_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'cuda:77', but this machine has \d+ CUDA GPUs; set device to auto or cpu"):
        select_device("cuda:77")


def test_no_gpu_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(ValueError, match="set device to auto or cpu"):
            select_device(name)
