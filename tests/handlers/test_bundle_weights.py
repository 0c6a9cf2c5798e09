"""Fine-tuned weights lie beside a bundle's, take their place on enough evidence only, and what was there is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.handlers import NoWeightsError
from cps4_monai.handlers.bundle_weights import BundleWeights
from cps4_monai.plan import Plan, plan_of, write_plan


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


def tuned(model: Path, network: nn.Module, scores: list[float], **options: Any) -> BundleWeights:
    """A handler after a training with these scores, that before training first; the bias tells the epochs apart."""
    options = {"validation": [f"sub-{n}" for n in range(5)], "output_dir": model.parent.parent, **options}
    handler = BundleWeights(model, network, "dice", **options)
    for epoch, score in enumerate(scores):
        network.bias.data.fill_(float(epoch))
        handler(engine(score, epoch))
    return handler


def decision(model: Path) -> dict[str, Any]:
    return json.loads((model.parent.parent / "deployment.json").read_text())


def test_training_alone_writes_beside_the_bundles_weights(model: Path, network: nn.Module) -> None:
    handler = tuned(model, network, [0.8, 0.5, 0.7, 0.6])
    assert model.read_bytes() == b"released" and handler.start_score == 0.8 and handler.best_epoch == 2
    assert torch.load(model.with_name("model_finetuned.pt"), weights_only=True)["bias"].tolist() == [2.0, 2.0]
    assert names(model) == ["model.pt", "model.pt.sha256", "model_finetuned.pt", "model_finetuned.pt.sha256"]


@pytest.mark.parametrize(
    ("scores", "options", "why"),
    [
        ([0.8, 0.9], {"validation": ["sub-1"] * 9}, "validated on 1 subjects, 5 are needed"),
        ([0.8, 0.9], {"held_out": False}, "patients of training"),
        ([0.8, 0.8], {}, "0.8000 is not above 0.8000"),
        ([0.8, 0.7], {"validation": ["a", "b"], "min_subjects": 2}, "0.7000 is not above 0.8000"),
        ([0.8, 0.7], {"validation": ["a"]}, "0.7000 is not above 0.8000; validated on 1 subjects, 5 are needed"),
    ],
)
def test_weights_are_not_replaced_on_too_little(model, network, scores, options, why) -> None:
    assert tuned(model, network, scores, **options).deploy() is False
    assert model.read_bytes() == b"released" and not model.with_name("model_released.pt").exists()
    assert why in decision(model)["why"] and decision(model)["deployed"] is False
    assert model.with_name("model_finetuned.pt").is_file()


@pytest.mark.parametrize("first", [0.8, float("nan")])
def test_weights_of_an_earlier_training_are_not_taken_for_those_of_one_without_a_score(model, network, first) -> None:
    model.with_name("model_finetuned.pt").write_bytes(b"of last week")
    handler = tuned(model, network, [first, float("nan")])
    with pytest.raises(NoWeightsError, match="no number in any validation"):
        handler.deploy()
    assert model.read_bytes() == b"released"


def test_better_weights_take_the_place_and_the_released_ones_stay(model: Path, network: nn.Module) -> None:
    write_plan(model.parent, Plan(MRSPINESEG))
    for scans in ("3 labeled scans", "4 labeled scans"):  # two trainings, one after the other
        assert tuned(model, network, [0.5, 0.4, 0.6], trained_on=scans).deploy() is True
    assert torch.load(model, weights_only=True)["bias"].tolist() == [2.0, 2.0]
    assert model.with_name("model_released.pt").read_bytes() == b"released"
    for name in ("model.pt", "model_released.pt", "model_finetuned.pt"):
        path = model.with_name(name)
        digest, named = path.with_name(f"{name}.sha256").read_text().split()
        assert (digest, named) == (hashlib.sha256(path.read_bytes()).hexdigest(), name)
    assert decision(model)["sha256_fine_tuned"] == hashlib.sha256(model.read_bytes()).hexdigest()
    first, second = plan_of(model).trained_on["fine_tuned"]
    digest = hashlib.sha256(model.read_bytes()).hexdigest()[:12]
    started = hashlib.sha256(b"released").hexdigest()[:12]
    names_of = f"model_finetuned.pt and model.pt (SHA-256 {digest})"
    assert first == f"{names_of} from {started}, on 3 labeled scans, validated on 5"
    assert second == f"{names_of} from {digest}, on 4 labeled scans, validated on 5"
    assert len(names(model)) == 7, "nothing half-written"


def test_the_plan_tells_of_weights_that_are_not_in_use_too(model: Path, network: nn.Module) -> None:
    write_plan(model.parent, Plan(MRSPINESEG, trained_on={"fine_tuned": True}))  # of an earlier version
    assert tuned(model, network, [0.5, 0.4], trained_on="1 labeled scan").deploy() is False
    before, told = plan_of(model).trained_on["fine_tuned"]
    assert before == "weights that were fine-tuned before"
    assert told.startswith("model_finetuned.pt (SHA-256 ") and "on 1 labeled scan, validated on 5" in told


def test_the_plan_tells_of_no_weights_that_are_gone_and_of_whose_calibration_it_has(
    model: Path, network: nn.Module
) -> None:
    """The second fine-tuning starts from the released weights again, and takes the place of the first one's."""
    write_plan(model.parent, Plan(MRSPINESEG, flags={"calibrated_on": "40 patients"}))
    for scores, scans in (([0.5, 0.4], "1 labeled scan"), ([0.5, 0.4, 0.45], "2 labeled scans")):
        assert tuned(model, network, scores, trained_on=scans).deploy() is False
    (told,) = plan_of(model).trained_on["fine_tuned"]
    assert "on 2 labeled scans" in told
    started = hashlib.sha256(b"released").hexdigest()[:12]
    assert plan_of(model).flags == {
        "calibrated_on": f"40 patients; with the weights {started}, before they were fine-tuned"
    }


def test_a_first_score_that_is_no_number_is_beaten_by_none(model: Path, network: nn.Module) -> None:
    assert tuned(model, network, [float("nan"), 0.5]).deploy() is False
    assert model.read_bytes() == b"released"


def test_a_write_that_fails_leaves_no_checksum_that_does_not_fit(
    model: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = tuned(model, network, [0.5])
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        handler(engine(0.6, 1))
    assert model.read_bytes() == b"released" and names(model) == ["model.pt", "model.pt.sha256"]
