"""What holds for every objective of stage 1: parts, resuming, what nobody annotated, waits, options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from host_reads import HostReads
from torch import nn

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.losses.attention import AttentionLoss
from cps4_monai.losses.egma import EGMALoss
from cps4_monai.losses.medclip import MedCLIPLoss
from cps4_monai.losses.presence import PresenceLoss
from cps4_monai.methods import MGCA, AttentionPretraining, PromptedPretraining
from cps4_monai.methods.mgca import PrototypeHeads
from cps4_monai.precision import Precision

BATCHES = 4


@dataclass(frozen=True)
class Case:
    """An objective, its weights by part, and what may be varied."""

    loss: Callable[..., nn.Module] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    options: tuple[dict[str, Any], ...] = ()

    def make(self, stage1: Any, unannotated: tuple[int, ...] = (), **more: Any) -> PromptedPretraining:
        torch.manual_seed(0)
        settings = {**self.settings, **more, "unannotated": unannotated}
        model = stage1.LocalModel() if self.loss else PrototypeHeads(stage1.LocalModel(), 7)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        if self.loss is not None:
            return AttentionPretraining(model, optimizer, self.loss(**settings))
        method = MGCA(model, optimizer, **settings)
        method.total_updates = BATCHES
        return method


CASES = {
    "cps4": Case(
        AttentionLoss,
        weights={"loss_token": 0.5, "loss_pixel": 0.5},
        options=(
            {"token_weight": 2.0}, {"pixel_weight": 2.0}, {"binarise": "bilinear"}, {"negatives": "present"},
            {"activation": "softmax"}, {"absent_weight": 0.1},
        ),
    ),
    "clip": Case(PresenceLoss),
    "medclip": Case(
        MedCLIPLoss,
        weights={"loss_over_classes": 0.5, "loss_over_slices": 0.5},
        options=({"presence_coding": "signed"},),
    ),
    "egma_mask_gaze": Case(
        EGMALoss,
        settings={"gaze_ratio": 0.5},
        weights={"loss_fine": 1, "loss_gaze": 0.5},
        options=({"gaze_ratio": 2.0}, {"sentence_weight": 0.2}, {"binarise": "bilinear"}),
    ),
    "egma_no_gaze": Case(EGMALoss, settings={"gaze_ratio": 0.0}, weights={"loss_fine": 1}),
    "mgca": Case(
        settings={"instance_weight": 1.0, "token_weight": 0.7, "prototype_weight": 0.5},
        weights={"loss_instance": 1, "loss_token": 0.7, "loss_prototype": 0.5},
        options=(
            {"instance_weight": 2.0}, {"token_weight": 2.0}, {"prototype_weight": 2.0}, {"instance_temperature": 0.2},
            {"token_temperature": 0.5}, {"prototype_temperature": 0.5}, {"queue_length": 3}, {"frozen_share": 0.75},
        ),
    ),
}  # fmt: skip
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
NEW = pytest.mark.parametrize("case", [CASES[n] for n in list(CASES)[1:]], ids=list(CASES)[1:])


@ALL
def test_the_total_is_the_sum_of_its_parts_by_their_weights(case, stage1):
    losses = stage1.train(case.make(stage1), stage1.batches())[-1]
    parts = {name: value for name, value in losses.items() if name != "loss"}
    assert parts.keys() == case.weights.keys()
    if parts:
        torch.testing.assert_close(losses["loss"], sum(case.weights[name] * value for name, value in parts.items()))


@ALL
def test_a_run_in_bfloat16_begins_as_in_float32_and_all_that_is_kept_is_float32(case, stage1):
    full, half = case.make(stage1), case.make(stage1)
    (expected, *_), (got, *_) = (
        stage1.train(method, stage1.batches(), precision)
        for method, precision in ((full, None), (half, Precision("cpu", True, "bfloat16")))
    )
    assert got["loss"].item() == pytest.approx(expected["loss"].item(), rel=0.02)
    kept = half.networks["model"].state_dict() | half.extra_state()
    assert {name: value.dtype for name, value in kept.items() if value.is_floating_point()} == {
        name: torch.float32 for name in kept
    }


@ALL
@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_saved_resumed_and_stepped_on_equals_an_uninterrupted_run_bit_by_bit(case, killed_after, tmp_path, stage1):
    """With momentum, prototypes, queue, the bias that follows the mean, and prototypes that rest for two steps."""
    rest = {} if case.loss else {"frozen_share": 0.5, "queue_length": 9}
    straight, loader = case.make(stage1, **rest), stage1.batches()
    stage1.train(straight, loader)
    first = case.make(stage1, **rest)
    stage1.train(first, stage1.Loader(loader[:killed_after]))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = case.make(stage1, **rest)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    stage1.train(second, stage1.Loader(loader[killed_after:]))
    assert second.updates == straight.updates == BATCHES
    expected = straight.networks["model"].state_dict() | straight.extra_state()
    got = second.networks["model"].state_dict() | second.extra_state()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


@NEW
def test_pixels_that_nobody_annotated_get_no_gradient(case, stage1):
    """Three of four rows of cells in one slice, all of another one: by 255 as by the code of a class without labels."""
    for code, unannotated in ((255, ()), (3, (3,))):
        method, (batch,) = case.make(stage1, unannotated), stage1.batches(1)
        batch["labeled"]["image"].requires_grad_()
        batch["labeled"]["label"][0, :, 4:], batch["labeled"]["label"][3] = code, code
        stage1.step(method, batch)["loss"].backward()
        gradient = batch["labeled"]["image"].grad
        assert not gradient[0, :, 4:].any() and not gradient[3].any()
        assert gradient[0, :, :4].any() and gradient[1].any() and gradient.isfinite().all()


@NEW
def test_a_class_that_is_never_annotated_gets_no_gradient(case, stage1):
    method, (batch,) = case.make(stage1, (3,)), stage1.batches(1)
    stage1.step(method, batch)["loss"].backward()
    gradient = method.deployed.prompts.grad
    assert not gradient[3].any() and gradient[[0, 1, 2]].any(1).all()


@NEW
def test_a_batch_without_any_annotation_gives_0_and_no_gradient(case, stage1):
    method, (batch,) = case.make(stage1), stage1.batches(1)
    batch["labeled"]["label"][:] = 255
    loss = stage1.step(method, batch)["loss"]
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or not p.grad.any() for p in method.parameters())


@ALL
def test_no_step_waits_for_the_device(case, stage1):
    method, loader = case.make(stage1, (3,)), stage1.batches()
    trainer = SemiSupervisedTrainer("cpu", 1, loader, method)
    with HostReads() as host:
        trainer.run()
    assert host.reads == [] and not method.waits_for_device


@pytest.mark.parametrize(
    ("name", "option"),
    [(n, o) for n, c in CASES.items() for o in c.options],
    ids=lambda value: value if isinstance(value, str) else str(next(iter(value))),
)
def test_each_option_varied_alone_changes_the_loss(name, option, stage1):
    case = CASES[name]
    plain, varied = (
        stage1.train(case.make(stage1), stage1.batches()),
        stage1.train(case.make(stage1, **option), stage1.batches()),
    )
    assert [float(a["loss"]) for a in plain] != [float(b["loss"]) for b in varied]


@pytest.mark.parametrize("kept", [AttentionLoss, PresenceLoss, MedCLIPLoss, EGMALoss, MGCA])
def test_every_option_is_varied(kept):
    """A new argument of an objective needs a line in its case."""
    varied = {
        key for case in CASES.values() if (case.loss or MGCA) is kept for option in case.options for key in option
    }
    taken = set(inspect.signature(kept).parameters) - {
        "network",
        "optimizer",
        "unannotated",
        "objective",
        "substitution",
    }
    assert taken == varied


@ALL
def test_a_few_steps_lower_the_loss(case, stage1):
    method, (batch,) = case.make(stage1), stage1.batches(1)
    losses = stage1.train(method, stage1.Loader([batch] * 30))
    assert losses[-1]["loss"] < losses[0]["loss"]
