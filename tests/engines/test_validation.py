"""Teacher and student are validated on whole volumes in one pass by MONAI's own evaluator."""

from __future__ import annotations

import pytest
import torch
from monai.engines import EnsembleEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SimpleInferer

from cps4_monai.assembly.validation import Validator
from cps4_monai.handlers import BestWeights
from cps4_monai.inference.slice_inferer import SliceBatchInferer
from cps4_monai.methods import CPS4
from cps4_monai.networks import ResUNet


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_a_process_without_a_volume_ends_its_validation_where_the_others_do(epoch):
    """One that went on would meet their next exchange in a validation that they do not have."""
    passes = []
    for idle in (False, True):
        volume = {"image": torch.zeros(1, 1, 2, 8, 8), "label": torch.zeros(1, 1, 2, 8, 8)}
        validator = Validator(
            device="cpu", val_data_loader=[volume], network=torch.nn.Identity(), inferer=SimpleInferer(), idle=idle
        )
        validator.add_event_handler("EPOCH_COMPLETED", lambda engine: passes.append(engine.state.epoch))
        validator.run(epoch)
    assert passes == [epoch, epoch]


class ReadOnce(list):
    reads = 0

    def __iter__(self):
        self.reads += 1
        return super().__iter__()


def test_both_networks_are_scored_in_one_pass_and_the_teacher_is_kept(tmp_path):
    torch.manual_seed(0)
    student = ResUNet(1, 3, features=(4, 8))
    method = CPS4(student, torch.optim.SGD(student.parameters(), lr=0.1), ema_decay=0.9)
    label = torch.randint(0, 3, (1, 1, 5, 8, 8))
    volumes = ReadOnce([{"image": torch.rand(1, 1, 5, 8, 8), "label": label}])

    def one_hot(key):
        def transform(output):
            pred, truth = from_engine([key, "label"])(output)
            winner = torch.nn.functional.one_hot(pred[0].argmax(0), 3).movedim(-1, 0)
            return [winner], [torch.nn.functional.one_hot(truth[0][0], 3).movedim(-1, 0)]

        return transform

    evaluator = EnsembleEvaluator(
        "cpu",
        volumes,
        networks=[method.teacher, method.student],
        pred_keys=["pred", "pred_student"],
        inferer=SliceBatchInferer(2),
        key_val_metric={"dice": MeanDice(output_transform=one_hot("pred"))},
        additional_metrics={"student_dice": MeanDice(output_transform=one_hot("pred_student"))},
        val_handlers=[BestWeights(tmp_path / "model.pt", method.deployed)],
    )
    for network, favourite in ((method.teacher, 1), (method.student, 2)):
        torch.nn.init.zeros_(network.head.weight)
        with torch.no_grad():
            network.head.bias.copy_(torch.eye(3)[favourite])
    evaluator.run(1)
    assert volumes.reads == 1
    metrics = evaluator.state.metrics
    for name, favourite in (("dice", 1), ("student_dice", 2)):
        voxels = (label == favourite).sum().item()
        # one class everywhere: its Dice is 2 v / (v + n), that of the two others 0
        assert metrics[name] == pytest.approx(2 * voxels / (voxels + label.numel()) / 3, abs=1e-6)
    assert not method.teacher.training
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["head.weight"], method.teacher.head.weight)
