from __future__ import annotations

import math
import os

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine

from cps4_monai.metrics.conventions import subject_scores
from cps4_monai.metrics.spine_dice import SpineDice, SpineDiceHandler
from cps4_monai.processes import leave_processes


def _volumes(count=3, depth=4, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (count, 1, depth, 8, 8), generator=generator)
    noise = torch.randint(0, classes, label.shape, generator=generator)
    return torch.where(torch.rand(label.shape, generator=generator) < 0.7, label, noise), label


def test_values_are_means_over_the_subjects():
    pred, label = _volumes()
    metric = SpineDice(5)
    for p, q in zip(pred, label, strict=True):
        metric(p[None], q[None])
    scores = [subject_scores(p[0], q[0], 5) for p, q in zip(pred, label, strict=True)]
    for convention in "abc":
        for name, by in (("dice", "dice_by"), ("iou", "iou_by")):
            expected = sum(getattr(s, by)[convention] for s in scores) / 3
            assert metric.summary()[f"{name}_{convention}"] == pytest.approx(expected)


def test_a_weighs_subjects_by_their_slices():
    label_1, label_2 = torch.ones(1, 1, 1, 4, 4, dtype=torch.long), torch.ones(1, 1, 3, 4, 4, dtype=torch.long)
    metric = SpineDice(2)
    metric(torch.zeros_like(label_1), label_1)  # wrong in its one slice
    metric(label_2, label_2)  # right in its three
    assert metric.summary()["dice_a"] == pytest.approx(0.75)
    assert metric.summary()["dice_b"] == pytest.approx(0.5)


@pytest.mark.parametrize("convention", ["a", "b", "c"])
def test_aggregate_returns_the_chosen_convention(convention):
    metric = SpineDice(5, convention)
    metric(*_volumes())
    assert float(metric.aggregate()) == pytest.approx(metric.summary()[f"dice_{convention}"], abs=1e-6)


def test_logits_lists_and_label_maps_give_the_same():
    pred, label = _volumes()
    logits = torch.nn.functional.one_hot(pred[:, 0], 5).movedim(-1, 1).float()
    results = []
    for p, q in ((pred, label), (logits, label.float()), (list(logits), list(label))):
        metric = SpineDice(5)
        metric(p, q)
        results.append(metric.summary())
    assert results[0] == results[1] == results[2]


def test_unannotated_channel_never_wins_the_argmax():
    logits = torch.zeros(1, 3, 1, 2, 2)
    logits[:, 1], logits[:, 2] = 5, 3
    kept = logits.clone()
    metric = SpineDice(3, unannotated=[1])
    metric(logits, torch.full((1, 1, 1, 2, 2), 2))
    assert metric.summary()["dice_b"] == 1.0
    assert torch.equal(logits, kept)


def test_two_dimensional_batches_are_subjects_of_one_slice():
    pred, label = _volumes()
    flat, deep = SpineDice(5), SpineDice(5)
    flat(pred[:, :, 0], label[:, :, 0])
    deep(pred[:, :, :1], label[:, :, :1])
    assert flat.summary() == deep.summary()


def test_missed_and_false_classes_are_counted():
    label, pred = torch.zeros(2, 1, 1, 4, 4).long(), torch.zeros(2, 1, 1, 4, 4).long()
    label[:, :, :, 0], pred[0, :, :, 0] = 1, 2
    metric = SpineDice(3)
    metric(pred, label)
    assert metric.summary()["missed"] == 2 and metric.summary()["false"] == 1


def test_class_means_leave_out_subjects_without_the_class():
    label = torch.zeros(2, 1, 1, 4, 4).long()
    label[0, 0, 0, 0] = 1
    metric = SpineDice(3)
    metric(label, label)
    assert metric.class_means()[1] == 1.0
    assert math.isnan(metric.class_means()[0]) and math.isnan(metric.class_means()[2])


def test_reset_forgets_and_aggregating_nothing_is_an_error():
    metric = SpineDice(5)
    metric(*_volumes())
    metric.reset()
    with pytest.raises(ValueError, match="nothing to aggregate"):
        metric.aggregate()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="convention is 'd'"):
        SpineDice(5, "d")
    with pytest.raises(ValueError, match="3 channels; expected 5"):
        SpineDice(5)(torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4).long())
    with pytest.raises(ValueError, match="y_pred has the shape"):
        SpineDice(5)(torch.zeros(1, 5, 1, 4, 4), torch.zeros(1, 1, 4, 4).long())
    with pytest.raises(ValueError, match="class_names has 2"):
        SpineDiceHandler(5, class_names=["a", "b"])


def _evaluate(handler, pred, label, decollate=True):
    data = [{"image": p[None].float(), "label": q[None]} for p, q in zip(pred, label, strict=True)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=data,
        network=torch.nn.Identity(),
        key_val_metric={"val_dice": handler},
        decollate=decollate,
    )
    evaluator.run()
    return evaluator.state


@pytest.mark.parametrize("decollate", [True, False])
def test_handler_is_the_key_metric_of_an_evaluator(decollate):
    pred, label = _volumes()
    transform = from_engine(["pred", "label"]) if decollate else lambda output: (output["pred"], output["label"])
    names = ["background", "S", "L5", "L4", "L4/L5"]
    handler = SpineDiceHandler(5, "c", class_names=names, output_transform=transform, prefix="teacher_")
    state = _evaluate(handler, pred, label, decollate)
    metric = SpineDice(5, "c")
    metric(pred, label)
    assert state.metrics["val_dice"] == pytest.approx(metric.summary()["dice_c"])
    assert state.best_metric == state.metrics["val_dice"]
    assert state.metrics["teacher_dice_a"] == pytest.approx(metric.summary()["dice_a"])
    assert state.metrics["teacher_dice_b_L4/L5"] == pytest.approx(float(metric.class_means()[4]))
    assert "teacher_dice_b_background" not in state.metrics
    assert state.metric_details["val_dice"].shape == (3, 5)
    assert all(isinstance(value, float) for value in state.metrics.values())


def test_handler_starts_anew_with_each_run():
    handler = SpineDiceHandler(5, output_transform=from_engine(["pred", "label"]))
    pred, label = _volumes()
    data = [{"image": p[None].float(), "label": q[None]} for p, q in zip(pred, label, strict=True)]
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), data, torch.nn.Identity(), key_val_metric={"val_dice": handler}
    )
    evaluator.run()
    first = dict(evaluator.state.metrics)
    evaluator.run()
    assert dict(evaluator.state.metrics) == first and len(handler.spine_dice) == 3


def _one_process(rank: int, port: int, queue: torch.multiprocessing.SimpleQueue) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    pred, label = _volumes(count=3)
    mine = slice(0, 1) if rank == 0 else slice(1, 3)  # uneven on purpose
    metric = SpineDice(5)
    metric(pred[mine], label[mine])
    queue.put(metric.summary())
    leave_processes()


def test_two_processes_give_the_result_of_one():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=_one_process, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    whole = SpineDice(5)
    whole(*_volumes(count=3))
    assert results[0] == results[1] == pytest.approx(whole.summary())
