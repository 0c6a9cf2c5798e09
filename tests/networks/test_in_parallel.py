"""Two real processes with a half of a batch each: losses, gradients and statistics are those of one with all of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from two_processes import run_in_two_processes

from cps4_monai.losses.dice import soft_dice
from cps4_monai.losses.whole_batch import of_all_processes, whole_sum
from cps4_monai.networks import in_parallel

PROGRAM = """
import copy
import torch
import torch.distributed as dist
from cps4_monai.losses.dice import soft_dice, soft_dice_distance
from cps4_monai.losses.presence import PresenceLoss
from cps4_monai.losses.semi_supervised import supervised_cross_entropy, text_cross_entropy
from cps4_monai.losses.similarity_supervision import info_nce
from cps4_monai.losses.whole_batch import mean_of_processes, of_all_processes
from cps4_monai.methods.input_gradients import resting_statistics
from cps4_monai.methods.mc_net import mutual_error
from cps4_monai.methods.ss_net import class_contrast
from cps4_monai.networks import ResUNet, in_parallel, share_buffers, unwrap
from cps4_monai.processes import join_processes, leave_processes

join_processes("gloo", 30)
rank = dist.get_rank()
own = slice(2 * rank, 2 * rank + 2)
torch.manual_seed(0)
image = torch.rand(4, 1, 16, 16) + torch.arange(4).view(4, 1, 1, 1)  # slices that differ in their mean
label = torch.randint(0, 3, (4, 1, 16, 16), dtype=torch.uint8)
label[0], label[1, :, :12], label[3, :, 3:5] = 255, 255, 255  # few pixels count in the first process
sure, soft = torch.rand(4, 1, 16, 16), torch.rand(4, 3, 16, 16).softmax(1)
positives = torch.rand(4, 8) < 0.4
positives[0] = False
memory, filled, drawn = torch.rand(3, 5, 256), torch.rand(3, 5) < 0.7, torch.tensor([[1, 1, 0, 1]] * 2 + [[0] * 4]) > 0

def contrast(logits, part):
    features = logits.float().flatten(2).transpose(0, 1)
    return class_contrast(features, drawn[:, part], features.mean(2).sigmoid(), memory, filled, memory.mean(2))

LOSSES = {
    "mutual error": lambda logits, part: mutual_error(
        [logits.softmax(1), soft[part]], [soft[part], logits.softmax(1)], label[part, 0] != 255),
    "presence": lambda logits, part: PresenceLoss()(logits, label[part]),
    "several positives": lambda logits, part: info_nce(logits.flatten(1)[:, :8], positives[part], 1.0),
    "contrast": contrast,
    "cross-entropy": lambda logits, part: supervised_cross_entropy(logits, label[part], (1,)),
    "by confidence": lambda logits, part: text_cross_entropy(logits, label[part], (), sure[part]),
    "dice": lambda logits, part: soft_dice(logits, label[part]),
    "distance": lambda logits, part: soft_dice_distance(logits.softmax(1), soft[part], label[part] != 255),
}

def step(network, loss, part, shared):
    network.train().zero_grad()
    with of_all_processes(shared):
        value = loss(network(image[part]), part)
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])

whole = ResUNet(1, 3, features=(4, 8)).double()
image, sure, soft = image.double(), sure.double(), soft.double()
parallel = in_parallel(copy.deepcopy(whole), "cpu", broadcast_buffers=False)
for name, loss in LOSSES.items():
    value, gradient = step(whole, loss, slice(None), False)
    own_value, own_gradient = step(parallel, loss, own, True)
    exact = value.dtype == torch.float64
    torch.testing.assert_close(own_value, value, rtol=1e-6 if exact else 1e-5, atol=0, msg=f"{name}: the loss")
    atol = 1e-7 if exact else 1e-6
    torch.testing.assert_close(own_gradient, gradient, rtol=1e-5, atol=atol, msg=f"{name}: the gradient")
    share_buffers(parallel)
    for ours, theirs in zip(unwrap(parallel).buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=f"{name}: the running statistics")

before = [buffer.clone() for buffer in unwrap(parallel).buffers()]
with resting_statistics(parallel):
    parallel(image[own])
assert all(map(torch.equal, before, unwrap(parallel).buffers())), "statistics that rest"

apart = in_parallel(copy.deepcopy(whole), "cpu", share_batch_norm=False, broadcast_buffers=False)
of_whole, of_own = (step(n, LOSSES["dice"], p, s) for n, p, s in ((whole, slice(None), False), (apart, own, True)))
assert (of_whole[1] - of_own[1]).abs().max() > 1e-3, "each process normalises its own slices: another training"
unshared = step(parallel, LOSSES["cross-entropy"], own, False)[1]
assert (unshared - step(whole, LOSSES["cross-entropy"], slice(None), False)[1]).abs().max() > 1e-3

shown = mean_of_processes({"loss": torch.tensor(1.0 + rank), "loss_other": torch.tensor(4.0 * rank)})
assert {name: float(value) for name, value in shown.items()} == {"loss": 1.5, "loss_other": 2.0}
leave_processes()
"""


def test_two_processes_have_losses_gradients_and_statistics_of_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run_in_two_processes(program)


def test_without_other_processes_a_sum_and_a_loss_stay_as_they_are():
    own = torch.rand(3)
    assert whole_sum(own) is own
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 1, 4, 4))
    with of_all_processes(False):
        within = soft_dice(logits, label)
    assert torch.equal(within, soft_dice(logits, label))


@pytest.fixture
def alone(tmp_path):
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2), nn.BatchNorm2d(2)], ids=["1d", "2d"])
def test_a_shared_batch_norm_is_torchs_where_there_is_one_process(norm, alone):
    torch.manual_seed(0)
    features = torch.randn(*((3, 2), (3, 2, 4, 5))[isinstance(norm, nn.BatchNorm2d)]) + 7
    network = nn.Sequential(norm)
    nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    before, parameters = {name: value.clone() for name, value in network.state_dict().items()}, list(norm.parameters())
    expected, expected_state = network(features), {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(before)
    shared = in_parallel(network, "cpu").module
    assert all(ours is theirs for ours, theirs in zip(shared.parameters(), parameters, strict=True)), (
        "an optimiser has them"
    )
    torch.testing.assert_close(shared(features), expected)
    for name, value in shared.state_dict().items():
        torch.testing.assert_close(value, expected_state[name], msg=name)
    assert torch.equal(shared.eval()(features), network.eval()(features))
    assert shared(features.bfloat16()).dtype == shared.train()(features.bfloat16()).dtype == torch.bfloat16


def test_a_batch_norm_without_weights_is_refused_with_a_way_out(alone):
    with pytest.raises(ValueError, match="Fix: set share_batch_norm to false"):
        in_parallel(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False)), "cpu")
