"""The moving average: values by hand, buffers copied and not shared, warm-up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cps4_monai.networks import ResUNet, ema_decay, ema_update, make_teacher, unwrap


def test_update_by_hand():
    student, teacher = nn.Linear(1, 1), nn.Linear(1, 1)
    for network, value in ((student, 2.0), (teacher, 10.0)):
        nn.init.constant_(network.weight, value)
        nn.init.constant_(network.bias, -value)
    ema_update(teacher, student, 0.75)
    assert teacher.weight.item() == pytest.approx(0.75 * 10 + 0.25 * 2)
    assert teacher.bias.item() == pytest.approx(-8.0)
    assert student.weight.item() == 2.0


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 2.0), (1.0, 10.0)])
def test_limits_copy_and_freeze_exactly(decay, expected):
    student, teacher = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(student.weight, 2.0)
    nn.init.constant_(teacher.weight, 10.0)
    ema_update(teacher, student, decay)
    assert teacher.weight.item() == expected


def test_warm_up_by_hand():
    assert [ema_decay(t, 0.99) for t in (0, 1, 3, 98, 99, 10_000)] == pytest.approx([0, 0.5, 0.75, 98 / 99, 0.99, 0.99])


def test_batchnorm_buffers_are_copied_and_not_shared():
    student = ResUNet(1, 3, features=(4, 8))
    teacher = make_teacher(student)
    student.train()(torch.rand(4, 1, 8, 8) * 5)
    assert not torch.equal(teacher.encoder[0].norm1.running_mean, student.encoder[0].norm1.running_mean)
    ema_update(teacher, student, 0.9)
    before = {name: buffer.clone() for name, buffer in teacher.named_buffers()}
    assert all(torch.equal(buffer, before[name]) for name, buffer in student.named_buffers())
    student(torch.rand(4, 1, 8, 8) * 9)
    assert all(torch.equal(buffer, before[name]) for name, buffer in teacher.named_buffers())
    shared = {b.data_ptr() for b in student.buffers()} & {b.data_ptr() for b in teacher.buffers()}
    assert not shared
    assert teacher.encoder[0].norm1.num_batches_tracked.dtype == torch.int64


def test_teacher_is_frozen_in_eval_and_a_copy():
    student = ResUNet(1, 3, features=(4, 8))
    teacher = make_teacher(student)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(mine, its) and mine.data_ptr() != its.data_ptr()


def test_networks_without_buffers_are_fine():
    teacher, student = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = (teacher.weight + student.weight) / 2
    ema_update(teacher, student, 0.5)
    torch.testing.assert_close(teacher.weight, expected)


def test_compiled_student_is_unwrapped():
    student = nn.Linear(1, 1)
    assert unwrap(torch.compile(student)) is student


def test_decay_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"decay is 1\.5"):
        ema_update(nn.Linear(1, 1), nn.Linear(1, 1), 1.5)
