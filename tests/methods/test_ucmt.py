"""UCMT by its card: what the teacher follows, two steps a batch, the symmetry of both students."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from monai.engines.utils import IterationEvents

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.losses.dice import segmentation_loss
from cps4_monai.methods import UCMT
from cps4_monai.networks import ResUNet, StudentPair, deployable


def make(**settings) -> UCMT:
    torch.manual_seed(0)
    pair = StudentPair(ResUNet(1, 4, features=(4, 8)), seed=1)
    method = UCMT(pair, torch.optim.SGD(pair.parameters(), lr=0.1), grid=4, ramp_share=0.0, **settings)
    method.total_updates = 2
    return method


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(8, 1, 16, 16, generator=generator)
    label = torch.randint(0, 4, (2, 1, 16, 16), generator=generator).to(torch.uint8)
    unlabeled = {"image": image[2:4], "image_strong": image[4:6], "image_strong_2": image[6:]}
    return {"labeled": {"image": image[:2], "label": label}, "unlabeled": unlabeled}


def test_a_ramp_in_steps_which_it_would_pass_over_is_refused():
    with pytest.raises(ValueError, match=r"ramp_up_updates is 40.*set its ramp_share"):
        make(ramp_up_updates=40)


def test_students_start_apart_and_the_global_random_state_stays():
    plain = ResUNet(1, 4, features=(4, 8))
    before = torch.get_rng_state()
    pair, again, other = (StudentPair(plain, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(plain.head.weight, pair.second.head.weight)
    assert torch.equal(pair.second.head.weight, again.second.head.weight)
    assert not torch.equal(pair.second.head.weight, other.second.head.weight)


def test_after_the_first_step_the_teacher_is_the_mean_of_both_students(batch):
    method = make(teacher_mix=0.99)
    method.after_step()
    pair = method.networks["student"]
    for teacher, first, second in zip(
        method.teacher.parameters(), pair.backbone.parameters(), pair.second.parameters(), strict=True
    ):
        torch.testing.assert_close(teacher, 0.99 * first + 0.01 * second)


def test_both_steps_of_a_batch_move_the_teacher_by_the_same_decay(batch):
    """The first batch has n = 0, so that the teacher is the students' mean after its second step, too."""
    method = make(teacher_mix=0.99)
    pair = method.networks["student"]
    for _ in range(2):
        with torch.no_grad():
            for weight in (*pair.backbone.parameters(), *pair.second.parameters()):
                weight.add_(torch.rand(()))
        method.after_step()
        for teacher, first, second in zip(
            method.teacher.parameters(), pair.backbone.parameters(), pair.second.parameters(), strict=True
        ):
            torch.testing.assert_close(teacher, 0.99 * first + 0.01 * second)


def test_a_batch_makes_two_steps_and_the_second_sees_the_first_ones_networks(batch):
    method = make()
    trainer = SemiSupervisedTrainer("cpu", 1, [batch], method)
    seen = []
    trainer.add_event_handler(
        IterationEvents.BACKWARD_COMPLETED, lambda _: seen.append(method.student.head.weight.detach().clone())
    )
    trainer.run()
    assert method.updates == 2 and len(seen) == 2 and not torch.equal(*seen)
    assert method.total_updates == 2


def test_accumulation_with_several_steps_a_batch_is_refused(batch):
    with pytest.raises(ValueError, match="2 optimiser steps of each batch; set accumulation_steps to 1"):
        SemiSupervisedTrainer("cpu", 1, [batch], make(), accumulation_steps=2)


def test_exchanging_the_students_exchanges_their_losses_alone(batch):
    method = make()
    outputs = method.forward(batch)
    swapped = {**outputs}
    for key in ("labeled_logits", "unlabeled_logits"):
        swapped[f"first_{key}"], swapped[f"second_{key}"] = outputs[f"second_{key}"], outputs[f"first_{key}"]
    ours, theirs = method.losses(outputs, batch), method.losses(swapped, batch)
    assert ours.keys() == {"loss", "loss_supervised", "loss_cross", "loss_teacher"}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


def test_the_second_step_moves_pictures_labels_and_pseudo_labels_together(batch):
    method = make(exchanged=4)
    with torch.no_grad():
        method.teacher.head.weight.mul_(20)  # so that pixels are called by several names
    codes = (batch["labeled"]["image"] * 255).to(torch.uint8)
    views = {f"image_strong{suffix}": batch["unlabeled"]["image"] + by for suffix, by in (("", 1), ("_2", 2))}
    given = {
        "labeled": {"image": batch["labeled"]["image"], "label": codes},
        "unlabeled": {**batch["unlabeled"], **views},
    }
    exchanged = method._exchanged(given)
    labeled, unlabeled = exchanged["labeled"], exchanged["unlabeled"]
    assert torch.equal((labeled["image"] * 255).to(torch.uint8), labeled["label"])
    assert not torch.equal(labeled["image"], batch["labeled"]["image"])
    assert not torch.equal(unlabeled["image"], batch["unlabeled"]["image"])
    assert torch.equal(unlabeled["image_strong"], unlabeled["image"] + 1)
    assert torch.equal(unlabeled["image_strong_2"], unlabeled["image"] + 2)
    pseudo_label = method.teacher(batch["unlabeled"]["image"]).argmax(1, keepdim=True)
    values = [float(value) for value in batch["unlabeled"]["image"].flatten()]
    name = dict(zip(values, pseudo_label.flatten().tolist(), strict=True))
    assert len(set(name.values())) > 1
    assert [name[float(v)] for v in unlabeled["image"].flatten()] == unlabeled["pseudo_label"].flatten().tolist()


def test_what_is_deployed_is_the_teacher_a_plain_network():
    method = make()
    assert method.deployed is method.teacher and deployable(method.networks["student"]) is method.student
    with pytest.raises(TypeError, match=r"expected cps4_monai\.networks\.StudentPair"):
        UCMT(method.student, torch.optim.SGD(method.student.parameters(), lr=0.1))


def test_student_2_without_weight_on_unlabeled_slices_is_that_of_a_supervised_run_with_two_steps_a_batch(batch):
    method = make(unlabeled_weight=0.0, exchanged=0)
    alone = copy.deepcopy(method.networks["student"].second).train()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    SemiSupervisedTrainer("cpu", 2, [batch], method).run()
    for _ in range(4):
        optimizer.zero_grad()
        segmentation_loss(alone(batch["labeled"]["image"]), batch["labeled"]["label"]).backward()
        optimizer.step()
    assert method.updates == 4
    for ours, theirs in zip(method.networks["student"].second.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_ramp_counts_batches_and_both_steps_of_one_have_the_same():
    pair = StudentPair(ResUNet(1, 4, features=(4, 8)), seed=1)
    method = UCMT(pair, torch.optim.SGD(pair.parameters(), lr=0.1), ramp_share=0.5)
    method.total_updates, ramps = 8, []
    for method.updates in range(6):
        ramps.append(method.ramp)
    assert ramps == pytest.approx([0.006738, 0.006738, 0.286505, 0.286505, 1.0, 1.0], rel=1e-4)


def test_uncertainty_is_the_entropy_of_the_mean_of_student_1_and_teacher(batch):
    method = make()
    names = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]]).mul(9).view(2, 4, 1, 1).expand(2, 4, 16, 16)
    method.student_probabilities = lambda image: names.softmax(1)
    agreed, disagreed = method._uncertainty(batch["labeled"]["image"], torch.stack((names[0], names[0])))[:, 0, 0, 0]
    assert agreed.item() == pytest.approx(0, abs=1e-6) and disagreed.item() == pytest.approx(math.log(2), rel=1e-5)


def test_each_student_has_a_strong_view_of_its_own(batch):
    method, seen = make(), []
    method.networks["student"].register_forward_pre_hook(
        lambda _, given, named: seen.append((named["second"], given[0])), with_kwargs=True
    )
    method.forward(batch)
    views = [batch["labeled"]["image"], *(batch["unlabeled"][f"image_strong{suffix}"] for suffix in ("", "_2"))]
    expected = [(False, views[0]), (False, views[1]), (True, views[0]), (True, views[2])]
    assert [second for second, _ in seen] == [second for second, _ in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(seen, expected, strict=True))
