"""BCP by its card: totals by hand, whose target a pixel has, the empty rectangle, the switch of phases."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from cps4_monai.losses.dice import segmentation_loss
from cps4_monai.methods import BCP
from cps4_monai.networks import ResUNet


def make(**settings) -> BCP:
    torch.manual_seed(0)
    student = ResUNet(1, 20, features=(4, 8))
    method = BCP(student, torch.optim.SGD(student.parameters(), lr=0.1), **{"pretrain_fraction": 0.0, **settings})
    method.total_updates = 4
    return method


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(8, 1, 12, 12, generator=generator)
    label = torch.randint(0, 20, (4, 1, 12, 12), generator=generator).to(torch.uint8)
    return {"labeled": {"image": image[:4], "label": label}, "unlabeled": {"image": image[4:]}}


def outputs_of(method: BCP, batch, logits: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    outputs = method.forward(batch)
    for name in ("in_logits", "out_logits"):
        if logits is not None:
            outputs[name] = logits
        outputs[name] = outputs[name].detach().requires_grad_()
    return outputs


def test_uniform_logits_give_one_and_a_half_cross_entropies_a_picture_whatever_the_rectangle(batch):
    for ratio in (0.3, 2 / 3):
        method = make(dice_weight=0.0, patch_ratio=ratio)
        losses = method.losses(outputs_of(method, batch, torch.zeros(2, 20, 12, 12)), batch)
        assert losses["loss"].item() == pytest.approx(2 * 1.5 * math.log(20), rel=1e-5)


def test_each_pixel_learns_from_the_target_of_its_own_picture(batch):
    method = make(dice_weight=0.0)
    outputs = outputs_of(method, batch)
    patch = outputs["patch"].expand(2, 1, 12, 12)

    def gradients(outputs, batch):
        return torch.autograd.grad(
            method.losses(outputs, batch)["loss"], (outputs["in_logits"], outputs["out_logits"]), retain_graph=True
        )

    inward, outward = gradients(outputs, batch)
    other = {**outputs, "pseudo_label": (outputs["pseudo_label"] + 1) % 20}
    of_pseudo = [(a != b).any(1, keepdim=True) for a, b in zip((inward, outward), gradients(other, batch), strict=True)]
    assert torch.equal(of_pseudo[0], ~patch) and torch.equal(of_pseudo[1], patch)
    relabeled = {**batch, "labeled": {**batch["labeled"], "label": (batch["labeled"]["label"] + 1) % 20}}
    of_label = [
        (a != b).any(1, keepdim=True) for a, b in zip((inward, outward), gradients(outputs, relabeled), strict=True)
    ]
    assert torch.equal(of_label[0], patch) and torch.equal(of_label[1], ~patch)


def test_an_empty_rectangle_leaves_supervision_and_self_training(batch):
    method = make(patch_ratio=0.0)
    with torch.no_grad():
        method.teacher.head.weight.mul_(20)  # so that the two halves have different pseudo-labels
    outputs = outputs_of(method, batch)
    losses = method.losses(outputs, batch)
    label, (pseudo, other) = batch["labeled"]["label"][2:], outputs["pseudo_label"].chunk(2)
    assert not torch.equal(pseudo, other)
    torch.testing.assert_close(losses["loss_supervised"], segmentation_loss(outputs["out_logits"], label))
    torch.testing.assert_close(losses["loss_pseudo"], segmentation_loss(outputs["in_logits"], pseudo))


def test_a_rectangle_of_the_whole_picture_exchanges_the_halves(batch):
    method = make(patch_ratio=1.0)
    with torch.no_grad():
        method.teacher.head.weight.mul_(20)
    outputs = outputs_of(method, batch)
    losses = method.losses(outputs, batch)
    label, pseudo = batch["labeled"]["label"][:2], outputs["pseudo_label"][2:]
    torch.testing.assert_close(losses["loss_supervised"], segmentation_loss(outputs["in_logits"], label))
    torch.testing.assert_close(losses["loss_pseudo"], segmentation_loss(outputs["out_logits"], pseudo))


def test_at_the_switch_the_teacher_is_the_student_and_then_the_second_phase_begins(batch):
    method = make(pretrain_fraction=0.5)
    for step in range(3):
        assert method.pretraining is (step < 2) and ("mixed_logits" in method.forward(batch)) is (step < 2)
        with torch.no_grad():
            for parameter in method.student.parameters():
                parameter.add_(0.1)
        method.after_step()
        same = all(
            torch.equal(a, b) for a, b in zip(method.teacher.parameters(), method.student.parameters(), strict=True)
        )
        assert same is (step in (0, 1)) or step == 0  # the warm-up of the average copies at the first step, too
    assert method.deployed is method.student


def test_the_ramp_begins_with_the_second_phase():
    method, ramps = make(pretrain_fraction=0.5, ramp_up_updates=4), []
    method.total_updates = 20
    for updates in (10, 12, 14):
        method.updates = updates
        ramps.append(method.ramp)
    assert ramps == pytest.approx([math.exp(-5), math.exp(-1.25), 1.0])


def test_what_is_pasted_is_the_strong_view_and_what_the_teacher_sees_the_weak_one(batch):
    """Labeled slices have intensities drawn, too: with weak ones around it the rim of a rectangle would be seen."""
    method = make(patch_ratio=1.0)
    with torch.no_grad():
        method.teacher.head.weight.mul_(20)
    strong = {**batch["unlabeled"], "image_strong": batch["unlabeled"]["image"] / 2}
    method.networks["student"].eval()
    weak, mixed = method.forward(batch), method.forward({**batch, "unlabeled": strong})
    torch.testing.assert_close(mixed["out_logits"], method.student(strong["image_strong"][2:]))
    assert not torch.equal(mixed["out_logits"], weak["out_logits"])
    assert torch.equal(mixed["pseudo_label"], weak["pseudo_label"])


@pytest.mark.parametrize("training", [True, False])
def test_the_authors_teacher_normalises_by_the_unlabeled_batch(batch, training):
    method = make(training_teacher=training)
    method.train()
    with torch.no_grad():
        method.teacher.head.weight.mul_(20)
    seen = copy.deepcopy(method.teacher).train(training)
    expected = seen(batch["unlabeled"]["image"]).argmax(1, keepdim=True)
    assert torch.equal(method.forward(batch)["pseudo_label"], expected)
    assert method.teacher.training is training and method.networks["student"].training
    other = copy.deepcopy(method.teacher).train(not training)(batch["unlabeled"]["image"]).argmax(1, keepdim=True)
    assert not torch.equal(other, expected)


def test_batches_that_cannot_be_halved_or_paired_are_refused(batch):
    method = make()
    with pytest.raises(ValueError, match="set batch_size_labeled"):
        method.forward({**batch, "labeled": {key: value[:3] for key, value in batch["labeled"].items()}})
    with pytest.raises(ValueError, match="set batch_size_labeled and batch_size_unlabeled to one even"):
        method.forward({**batch, "unlabeled": {"image": batch["unlabeled"]["image"][:2]}})
    with pytest.raises(ValueError, match="to one even number, at most"):  # in the first phase, which reads none
        make(pretrain_fraction=0.5).forward({**batch, "unlabeled": {"image": batch["unlabeled"]["image"][:2]}})
    only_first = make(pretrain_fraction=1.0)
    only_first.forward({**batch, "unlabeled": {"image": batch["unlabeled"]["image"][:2]}})
    method.total_updates = None
    with pytest.raises(ValueError, match="counts in shares of the run"):
        method.forward(batch)


@pytest.mark.parametrize("pretrain_fraction", [0.0, 1.0])
def test_pictures_are_pasted_where_their_targets_are(pretrain_fraction):
    """Slice i is of intensity i / 10 everywhere: what the student sees tells of which slice each pixel is."""
    method, seen = make(pretrain_fraction=pretrain_fraction), []
    method.networks["student"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = (torch.arange(8) / 10).view(8, 1, 1, 1).expand(8, 1, 12, 12)
    label = torch.zeros(4, 1, 12, 12, dtype=torch.uint8)
    patch = method.forward({"labeled": {"image": image[:4], "label": label}, "unlabeled": {"image": image[4:]}})[
        "patch"
    ]
    labeled_first, labeled_second, unlabeled_first, unlabeled_second = image.split(2)
    if pretrain_fraction:
        (mixed,) = seen
        assert torch.equal(mixed, torch.where(patch, labeled_second, labeled_first))
    else:
        inward, outward = seen
        assert torch.equal(inward, torch.where(patch, labeled_first, unlabeled_first))
        assert torch.equal(outward, torch.where(patch, unlabeled_second, labeled_second))


def test_a_rectangle_of_the_full_width_keeps_its_area_and_one_rectangle_serves_the_batch(batch):
    plain, wide = (make(full_width=full).forward(batch)["patch"] for full in (False, True))
    assert plain.shape == wide.shape == (1, 1, 12, 12)
    assert plain.sum() == 8 * 8 and wide.any(3).sum() == int(4 / 9 * 12) and wide.all(3).sum() == wide.any(3).sum()


def test_a_first_phase_to_the_end_stays_one_in_a_run_made_longer(batch):
    """A checkpoint brings the length of the run that it is of, and shares of the run count in that."""
    method = make(pretrain_fraction=1.0)
    method.total_updates, method.updates = 4, 4
    assert method.pretraining and set(method.forward(batch)) == {"patch", "mixed_logits"}
