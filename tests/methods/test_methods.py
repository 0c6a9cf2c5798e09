"""Methods: totals by hand, each setting varied alone, who gets gradients, state."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.losses.semi_supervised import (
    consistency_mse,
    enhance_cross_entropy,
    enhanced_target,
    supervised_cross_entropy,
    text_cross_entropy,
)
from cps4_monai.methods import CPS4, MeanTeacher, SemiSupervisedMethod, Supervised
from cps4_monai.networks import ResUNet


def make(cls, **settings):
    torch.manual_seed(0)
    student = ResUNet(1, 4, features=(4, 8))
    return cls(student, torch.optim.SGD(student.parameters(), lr=0.1), **settings)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(6, 1, 8, 8, generator=generator)
    label = torch.randint(0, 4, (4, 1, 8, 8), generator=generator)
    return {
        "labeled": {"image": image[:2], "label": label[:2].to(torch.uint8)},
        "unlabeled": {"image": image[2:4], "image_strong": image[4:6], "prompt_map": label[2:]},
    }


def loss_of(method, batch):
    method.train()
    outputs = method.forward(batch)
    return outputs, method.losses(outputs, batch)


def test_cps4_total_is_half_of_both_unlabeled_terms_plus_the_supervised_one(batch):
    outputs, losses = loss_of(make(CPS4), batch)
    sup = supervised_cross_entropy(outputs["labeled_logits"], batch["labeled"]["label"])
    text = text_cross_entropy(outputs["unlabeled_logits"], batch["unlabeled"]["prompt_map"])
    target = enhanced_target(outputs["teacher_logits"], batch["unlabeled"]["prompt_map"])
    enhance = enhance_cross_entropy(outputs["unlabeled_logits"], target)
    torch.testing.assert_close(losses["loss"], (text + enhance) / 2 + sup)
    assert set(losses) == {"loss", "loss_supervised", "loss_text", "loss_enhance", "map_decides_fraction"}


def test_a_dropped_term_leaves_the_other_its_half(batch):
    _, both = loss_of(make(CPS4), batch)
    _, text_only = loss_of(make(CPS4, enhance_weight=0), batch)
    _, enhance_only = loss_of(make(CPS4, text_weight=0), batch)
    torch.testing.assert_close(text_only["loss"], both["loss_supervised"] + both["loss_text"] / 2)
    torch.testing.assert_close(enhance_only["loss"], both["loss_supervised"] + both["loss_enhance"] / 2)
    assert "loss_enhance" not in text_only and "loss_text" not in enhance_only


def test_mt_ce_uses_no_prompt_map(batch):
    method = make(CPS4, text_weight=0, enhanced_target="teacher")
    assert not method.needs_prompt_map
    _, with_map = loss_of(method, batch)
    del batch["unlabeled"]["prompt_map"]
    outputs, losses = loss_of(make(CPS4, text_weight=0, enhanced_target="teacher"), batch)
    target = outputs["teacher_logits"].softmax(dim=1)
    expected = losses["loss_supervised"] + enhance_cross_entropy(outputs["unlabeled_logits"], target) / 2
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["loss"], with_map["loss"])


def test_prompt_map_is_asked_for_where_any_term_reads_it():
    assert make(CPS4).needs_prompt_map
    assert make(CPS4, text_weight=0).needs_prompt_map
    assert make(CPS4, enhance_weight=0, enhanced_target="teacher").needs_prompt_map
    assert not make(MeanTeacher).needs_prompt_map and not make(Supervised).needs_prompt_map


def test_no_teacher_pass_is_made_for_nothing(batch):
    outputs, _ = loss_of(make(CPS4, enhance_weight=0), batch)
    assert "teacher_logits" not in outputs


def test_missing_prompt_map_says_how_to_fix_it(batch):
    del batch["unlabeled"]["prompt_map"]
    with pytest.raises(ValueError, match="attach PromptMapHandler"):
        loss_of(make(CPS4), batch)


@pytest.mark.parametrize("mode", ["soft", "hard", "sum", "teacher"])
def test_target_mode_reaches_the_loss(batch, mode):
    outputs, losses = loss_of(make(CPS4, enhanced_target=mode), batch)
    target = enhanced_target(outputs["teacher_logits"], batch["unlabeled"]["prompt_map"], mode)
    torch.testing.assert_close(losses["loss_enhance"], enhance_cross_entropy(outputs["unlabeled_logits"], target))


def test_the_share_of_pixels_whose_target_the_prompt_map_changes(batch):
    method = make(CPS4)
    method.train()
    outputs = method.forward(batch)
    of_teacher = outputs["teacher_logits"].argmax(1, keepdim=True)
    prompt_map = of_teacher.clone()
    prompt_map[0, 0, :2] = (of_teacher[0, 0, :2] + 1) % outputs["teacher_logits"].shape[1]
    prompt_map[0, 0, 2] = -1  # no target: the teacher's
    batch["unlabeled"]["prompt_map"] = prompt_map
    changed = prompt_map[0, 0, :2].numel() / prompt_map.numel()
    assert method.losses(outputs, batch)["map_decides_fraction"] == pytest.approx(changed)
    assert "map_decides_fraction" not in loss_of(make(CPS4, text_weight=0, enhanced_target="teacher"), batch)[1]


def test_mean_teacher_total_by_its_parts(batch):
    outputs, losses = loss_of(make(MeanTeacher, consistency_weight=3.0, ramp_up_updates=0), batch)
    mse = consistency_mse(outputs["unlabeled_logits"], outputs["teacher_logits"])
    sup = supervised_cross_entropy(outputs["labeled_logits"], batch["labeled"]["label"])
    torch.testing.assert_close(losses["loss"], sup + 3 * mse)


@pytest.mark.parametrize("cls", [CPS4, MeanTeacher])
def test_ramp_counts_updates_and_spares_the_supervised_term(batch, cls):
    method = make(cls, ramp_up_updates=100)
    _, early = loss_of(method, batch)
    method.updates = 100
    _, late = loss_of(make(cls, ramp_up_updates=0), batch)
    assert method.ramp == 1.0
    factor = torch.exp(torch.tensor(-5.0))
    unlabeled = late["loss"] - late["loss_supervised"]
    torch.testing.assert_close(early["loss"], late["loss_supervised"] + factor * unlabeled)


def test_supervised_needs_no_unlabeled_images(batch):
    del batch["unlabeled"]
    method = make(Supervised)
    outputs, losses = loss_of(method, batch)
    expected = supervised_cross_entropy(outputs["labeled_logits"], batch["labeled"]["label"])
    torch.testing.assert_close(losses["loss"], expected)
    assert not method.needs_unlabeled and method.deployed is method.student


def test_student_sees_the_strong_view_and_teacher_the_weak_one(batch):
    method = make(CPS4)
    method.train()
    method.student.eval()
    outputs = method.forward(batch)
    torch.testing.assert_close(outputs["unlabeled_logits"], method.student(batch["unlabeled"]["image_strong"]))
    torch.testing.assert_close(outputs["teacher_logits"], method.teacher(batch["unlabeled"]["image"]))


def test_one_view_serves_both_where_there_is_no_strong_one(batch):
    del batch["unlabeled"]["image_strong"]
    method = make(CPS4)
    method.student.eval()
    torch.testing.assert_close(
        method.student_logits(batch)["unlabeled_logits"], method.student(batch["unlabeled"]["image"])
    )


@pytest.mark.parametrize("cls", [CPS4, MeanTeacher])
def test_labeled_logits_hang_on_the_unlabeled_slices_only_where_batch_norm_sees_both(batch, cls):
    other = {**batch, "unlabeled": {**batch["unlabeled"], "image_strong": batch["unlabeled"]["image_strong"] * 5 + 3}}
    for batch_statistics, same in (("separate", True), ("joint", False)):
        method = make(cls, batch_statistics=batch_statistics)
        method.train()
        with torch.no_grad():
            first, second = (method.student_logits(b)["labeled_logits"] for b in (batch, other))
        assert torch.allclose(first, second) is same


@pytest.mark.parametrize("cls", [CPS4, MeanTeacher])
def test_gradients_reach_the_student_only(batch, cls):
    method = make(cls)
    outputs, losses = loss_of(method, batch)
    losses["loss"].backward()
    assert not outputs["teacher_logits"].requires_grad
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters())


@pytest.mark.parametrize("cls", [CPS4, MeanTeacher])
def test_teacher_stays_in_eval_and_its_statistics_do_not_move_in_forward(batch, cls):
    method = make(cls)
    before = [buffer.clone() for buffer in method.teacher.buffers()]
    loss_of(method, batch)
    assert method.student.training and not method.teacher.training
    assert all(torch.equal(a, b) for a, b in zip(before, method.teacher.buffers(), strict=True))


def test_after_step_moves_the_teacher_with_warm_up():
    method = make(CPS4, ema_decay=0.9)
    weight = method.teacher.head.weight
    expected = weight.clone()
    for decay in (0.0, 0.5, 2 / 3):
        with torch.no_grad():
            method.student.head.weight.add_(1.0)
        expected = decay * expected + (1 - decay) * method.student.head.weight
        method.after_step()
        torch.testing.assert_close(weight, expected.detach())
    assert method.updates == 3


def test_deployed_network_is_a_setting():
    assert make(CPS4).deployed is not make(CPS4, deployed="student").deployed
    method = make(CPS4, deployed="student")
    assert method.deployed is method.student
    assert make(CPS4).deployed_name == "teacher"


def test_unannotated_class_gets_no_gradient_from_any_term(batch):
    for cls in (CPS4, MeanTeacher, Supervised):
        method = make(cls, unannotated=(2,))
        _, losses = loss_of(method, batch)
        losses["loss"].backward()
        assert method.student.head.weight.grad[2].abs().sum() == 0
        assert method.student.head.weight.grad[1].abs().sum() > 0


@pytest.mark.parametrize("cls", [CPS4, MeanTeacher, Supervised])
def test_state_restores_networks_optimiser_and_count(batch, cls):
    method = make(cls)
    for _ in range(2):
        _, losses = loss_of(method, batch)
        losses["loss"].backward()
        method.optimizers["student"].step()
        method.after_step()
    other = make(cls)
    other.load_state_dict(method.state_dict())
    assert other.updates == 2
    for name, network in method.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, other.networks[name].state_dict()[key])


def test_state_of_another_method_is_refused():
    with pytest.raises(ValueError, match="another method"):
        make(CPS4).load_state_dict(make(Supervised).state_dict())


def test_predict_gives_every_networks_eval_logits_and_restores_the_mode(batch):
    method = make(CPS4)
    method.train()
    logits = method.predict(batch["unlabeled"]["image"])
    assert set(logits) == {"student", "teacher"} and method.student.training and not method.teacher.training
    torch.testing.assert_close(logits["teacher"], method.teacher(batch["unlabeled"]["image"]))


def test_bad_settings_are_refused():
    for settings, message in [
        ({"text_weight": -1}, "text_weight is -1"),
        ({"text_weight": 0, "enhance_weight": 0}, "use the method 'supervised'"),
        ({"enhanced_target": "both"}, "expected one of"),
        ({"ema_decay": 1.1}, "ema_decay is 1.1"),
        ({"batch_statistics": "shared"}, "batch_statistics is 'shared'; expected one of"),
        ({"ramp_up_updates": -5}, "ramp-up length is -5"),
        ({"deployed": "both"}, "deployed network is 'both'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(CPS4, **settings)
    with pytest.raises(ValueError, match="consistency_weight is -1"):
        make(MeanTeacher, consistency_weight=-1)


def test_sizes_that_differ_between_halves_are_refused(batch):
    batch["labeled"]["image"] = batch["labeled"]["image"][..., :6]
    with pytest.raises(ValueError, match="one in-plane size"):
        loss_of(make(CPS4), batch)


def test_seam_asks_for_forward_and_losses():
    with pytest.raises(TypeError, match="abstract"):
        SemiSupervisedMethod({}, {}, "x")
