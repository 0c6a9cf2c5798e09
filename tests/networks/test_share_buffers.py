"""Several processes: two passes of the student in one step, and BatchNorm statistics that stay the same everywhere."""

from __future__ import annotations

import torch
from torch import nn
from two_processes import run_in_two_processes

from cps4_monai.networks import share_buffers

PROGRAM = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from cps4_monai.methods import MeanTeacher
from cps4_monai.networks import ResUNet, unwrap
from cps4_monai.processes import join_processes, leave_processes
from two_processes import connection_threads

join_processes("gloo", 30)
torch.manual_seed(0)
student = DistributedDataParallel(ResUNet(1, 3, features=(4, 8)), broadcast_buffers=False)
method = MeanTeacher(student, torch.optim.SGD(student.parameters(), lr=0.1), batch_statistics="separate")
torch.manual_seed(1 + dist.get_rank())  # each process has slices of its own
for _ in range(2):
    batch = {"labeled": {"image": torch.rand(2, 1, 8, 8), "label": torch.randint(0, 3, (2, 1, 8, 8))},
             "unlabeled": {"image": torch.rand(2, 1, 8, 8)}}
    method.train()
    method.losses(method.forward(batch), batch)["loss"].backward()
    method.optimizers["student"].step()
    method.optimizers["student"].zero_grad()
    before = torch.cat([b.flatten().float() for b in unwrap(student).buffers()])
    method.after_step()
    for network in (unwrap(student), method.teacher):
        own = torch.cat([value.flatten().float() for value in network.state_dict().values()])
        everywhere = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(everywhere, own)
        assert torch.equal(*everywhere), "parameters and statistics are the same in both processes"
    after = torch.cat([b.flatten().float() for b in unwrap(student).buffers()])
    assert torch.equal(before, after) is (dist.get_rank() == 0), "those of the first process count"
assert connection_threads(), "else nothing is checked where a process ends"
leave_processes()
"""


def test_two_processes_keep_one_student_and_one_teacher(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run_in_two_processes(program)


def test_a_single_network_is_left_alone():
    network = nn.BatchNorm1d(2)
    before = network.running_mean.clone()
    share_buffers(network)
    assert torch.equal(network.running_mean, before)
