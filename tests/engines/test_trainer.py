"""The trainer: events, accumulation, clipping, mixed precision, and that no step waits for the device."""

from __future__ import annotations

import pytest
import torch
from host_reads import HostReads
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.handlers import from_engine
from torch import nn

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.engines.trainer import batch_to_device
from cps4_monai.methods import CPS4, SemiSupervisedMethod, Supervised
from cps4_monai.networks import ResUNet
from cps4_monai.precision import Precision


class Loader(list):
    """Batches in a list, with the loader's interface."""

    def set_epoch(self, epoch):
        self.epoch = epoch


def batches(count, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def one():
        label = torch.randint(0, 3, (2 * size, 1, 8, 8), generator=generator)
        image = torch.rand(2 * size, 1, 8, 8, generator=generator)
        return {
            "labeled": {"image": image[:size], "label": label[:size].to(torch.uint8), "subject": ["a"] * size},
            "unlabeled": {"image": image[size:], "prompt_map": label[size:]},
        }

    return Loader(one() for _ in range(count))


def trainer_of(loader, cls=CPS4, lr=0.1, network=None, optimizer=torch.optim.SGD, epochs=1, **settings):
    torch.manual_seed(0)
    student = network or ResUNet(1, 3, features=(4, 8))
    method = cls(student, optimizer(student.parameters(), lr=lr))
    return SemiSupervisedTrainer("cpu", epochs, loader, method, **settings)


def test_events_fire_once_an_iteration_and_in_order():
    trainer, fired = trainer_of(batches(2)), []
    for event in (*IterationEvents, Events.ITERATION_COMPLETED):
        if event in (
            IterationEvents.FORWARD_COMPLETED,
            IterationEvents.LOSS_COMPLETED,
            IterationEvents.BACKWARD_COMPLETED,
            IterationEvents.MODEL_COMPLETED,
            Events.ITERATION_COMPLETED,
        ):
            trainer.add_event_handler(event, lambda engine, name: fired.append(name), event.value)
    trainer.run()
    one = ["forward_completed", "loss_completed", "backward_completed", "model_completed", "iteration_completed"]
    assert fired == 2 * one


def test_output_holds_predictions_on_the_way_and_detached_scalars_after():
    trainer, seen = trainer_of(batches(1)), {}

    @trainer.on(IterationEvents.LOSS_COMPLETED)
    def look(engine):
        seen.update(engine.state.output)

    trainer.run()
    assert {"labeled_logits", "unlabeled_logits", "teacher_logits", "loss", "loss_text"} <= set(seen)
    (output,) = trainer.state.output
    assert set(output) == {"loss", "loss_supervised", "loss_text", "loss_enhance", "map_decides_fraction"}
    assert all(isinstance(v, torch.Tensor) and v.ndim == 0 and not v.requires_grad for v in output.values())
    assert from_engine(["loss"], first=True)(trainer.state.output) is output["loss"]


def test_training_lowers_the_loss_and_counts_updates():
    loader = batches(1)
    trainer, losses = trainer_of(loader, lr=0.01, optimizer=torch.optim.Adam, epochs=30), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output[0]["loss"].item()))
    trainer.run()
    assert losses[-1] < 0.8 * losses[0] and trainer.method.updates == 30


def linear():
    """Per-pixel and without BatchNorm: the mean over a large batch is the mean over its halves."""
    torch.manual_seed(3)
    return nn.Conv2d(1, 3, kernel_size=3, padding=1)


def joined(parts):
    def cat(items):
        if isinstance(items[0], torch.Tensor):
            return torch.cat(items)
        if isinstance(items[0], dict):
            return {key: cat([item[key] for item in items]) for key in items[0]}
        return [entry for item in items for entry in item]

    return cat(parts)


@pytest.mark.parametrize("steps", [2, 3])
def test_accumulation_equals_a_large_batch_even_in_the_last_smaller_group(steps):
    small = batches(4)
    groups = [small[start : start + steps] for start in range(0, 4, steps)]
    accumulated = trainer_of(small, network=linear(), accumulation_steps=steps)
    at_once = trainer_of(Loader(joined(group) for group in groups), network=linear())
    accumulated.run()
    at_once.run()
    assert accumulated.method.updates == at_once.method.updates == len(groups)
    for one, other in zip(accumulated.method.networks.values(), at_once.method.networks.values(), strict=True):
        torch.testing.assert_close(one.weight, other.weight)


def test_clipping_limits_the_norm_of_all_gradients():
    norms = []
    for limit in (None, 1e-3):
        trainer = trainer_of(batches(1), lr=0.0, gradient_clip_norm=limit)
        trainer.run()
        grads = [p.grad.flatten() for p in trainer.method.student.parameters()]
        norms.append(torch.cat(grads).norm().item())
    assert norms[0] > 1e-2 and norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_mixed_precision_trains_on_the_cpu():
    types = []
    trainer = trainer_of(batches(2), precision=Precision("cpu", True, "bfloat16"))
    trainer.add_event_handler(
        IterationEvents.FORWARD_COMPLETED, lambda e: types.append(e.state.output["labeled_logits"].dtype)
    )
    trainer.run()
    assert types == [torch.bfloat16] * 2 and trainer.scaler is None
    assert trainer.state.output[0]["loss"].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in trainer.method.student.parameters())


def test_scaled_float16_steps_agree_with_float32_ones():
    exact = trainer_of(batches(2), network=linear())
    scaled = trainer_of(batches(2), network=linear(), precision=Precision("cpu", True, "float16"))
    exact.run()
    scaled.run()
    assert scaled.scaler is not None
    torch.testing.assert_close(scaled.method.student.weight, exact.method.student.weight, atol=2e-3, rtol=2e-2)


def test_each_training_has_a_scaler_of_its_own():
    """Both stages of a run have one precision; the second begins as it does by itself."""
    precision = Precision("cpu", True, "float16")
    first, second = (trainer_of(batches(2), network=linear(), precision=precision) for _ in range(2))
    first.run()
    first.scaler.update(8.0)
    assert second.scaler is not None and second.scaler.get_scale() != 8.0


def test_clipping_sees_unscaled_gradients():
    trainer = trainer_of(
        batches(1), lr=0.0, precision=Precision("cpu", True, "float16"), gradient_clip_norm=1e-3, network=linear()
    )
    trainer.run()
    norm = torch.cat([p.grad.flatten() for p in trainer.method.student.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("unannotated", [(), (2,)])
def test_no_step_waits_for_the_device(unannotated):
    trainer = trainer_of(batches(2), gradient_clip_norm=1.0)
    trainer.method.unannotated = unannotated
    with HostReads() as host:
        trainer.run()
        assert host.reads == []
        trainer.state.output[0]["loss"].item()
        assert len(host.reads) == 1


def test_supervised_runs_on_labeled_batches_alone():
    loader = Loader({"labeled": b["labeled"]} for b in batches(2))
    trainer = trainer_of(loader, cls=Supervised)
    trainer.run()
    assert trainer.method.updates == 2


def test_a_method_with_two_optimisers_steps_both():
    class Two(SemiSupervisedMethod):
        def __init__(self):
            nets = {name: nn.Conv2d(1, 3, 1) for name in "ab"}
            opts = {name: torch.optim.SGD(net.parameters(), lr=0.5) for name, net in nets.items()}
            super().__init__(nets, opts, "a")

        def forward(self, batch):
            return {name: net(batch["labeled"]["image"]) for name, net in self.networks.items()}

        def losses(self, outputs, batch):
            return {"loss": sum(out.square().mean() for out in outputs.values())}

    method = Two()
    before = [net.weight.clone() for net in method.networks.values()]
    SemiSupervisedTrainer("cpu", 1, batches(1), method).run()
    assert all(not torch.equal(b, net.weight) for b, net in zip(before, method.networks.values(), strict=True))


def test_nested_batches_move_and_lists_stay():
    batch = {"a": {"b": torch.zeros(1), "names": ["x"]}, "n": 3}
    moved = batch_to_device(batch, torch.device("cpu"), dtype=torch.float16)
    assert moved["a"]["b"].dtype == torch.float16 and moved["a"]["names"] == ["x"] and moved["n"] == 3


def test_bad_settings_are_refused():
    for settings, message in [
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm is 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            trainer_of(batches(1), **settings)
    with pytest.raises(TypeError, match="method is a Linear"):
        SemiSupervisedTrainer("cpu", 1, [], nn.Linear(1, 1))
