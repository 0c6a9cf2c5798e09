"""Fine-tuned weights take the place of a bundle's, and what was there is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cps4_monai.handlers.bundle_weights import BundleWeights
from cps4_monai.handlers.group import HandlerGroup


def engine(score: float, epoch: int) -> SimpleNamespace:
    state = SimpleNamespace(metrics={"dice": score}, key_metric_name="dice", epoch=epoch, rank=0)
    return SimpleNamespace(state=state)


@pytest.fixture
def network() -> nn.Module:
    return nn.Conv2d(1, 2, 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "model.pt"
    path.parent.mkdir()
    path.write_bytes(b"released")
    path.with_name("model.pt.sha256").write_text("0000  model.pt\n")
    return path


def names(model: Path) -> list[str]:
    return sorted(path.name for path in model.parent.iterdir())


def test_the_first_score_is_that_to_beat_and_writes_nothing(model: Path, network: nn.Module) -> None:
    handler = BundleWeights(model, network)
    handler(engine(0.8, 0))
    handler(engine(0.8, 1))
    handler(engine(0.7, 2))
    assert model.read_bytes() == b"released" and names(model) == ["model.pt", "model.pt.sha256"]
    assert handler.best_score == 0.8


def test_better_weights_get_a_checksum_and_the_released_ones_stay(model: Path, network: nn.Module) -> None:
    for bias in (1.0, 2.0):  # two trainings, one after the other
        handler = BundleWeights(model, network)
        handler(engine(0.5, 0))
        network.bias.data.fill_(bias)
        handler(engine(0.6, 1))
    assert torch.load(model, weights_only=True)["bias"].tolist() == [2.0, 2.0]
    assert model.with_name("model_released.pt").read_bytes() == b"released"
    for path in (model, model.with_name("model_released.pt")):
        digest, name = path.with_name(f"{path.name}.sha256").read_text().split()
        assert (digest, name) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    assert len(names(model)) == 4, "nothing half-written"


def test_a_first_score_that_is_no_number_is_beaten_by_any(tmp_path: Path, network: nn.Module) -> None:
    handler = BundleWeights(tmp_path / "model.pt", network)
    handler(engine(float("nan"), 0))
    handler(engine(0.0, 1))
    assert names(tmp_path / "model.pt") == ["model.pt", "model.pt.sha256"], "no weights were there to keep"


def test_a_write_that_fails_leaves_no_checksum_that_does_not_fit(
    model: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = BundleWeights(model, network)
    handler(engine(0.5, 0))
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        handler(engine(0.6, 1))
    assert model.read_bytes() == b"released" and "model.pt.sha256" not in names(model)


def test_a_group_attaches_in_order_and_leaves_none_out() -> None:
    seen: list[tuple[str, str]] = []
    one, two = (SimpleNamespace(attach=lambda engine, n=n: seen.append((n, engine))) for n in ("one", "two"))
    HandlerGroup([one, None, two]).attach("engine")
    assert seen == [("one", "engine"), ("two", "engine")]
    HandlerGroup([None]).attach("engine")
