"""Two processes train methods with parts around the network: every part has one value everywhere, in every phase."""

from __future__ import annotations

from two_processes import run_in_two_processes

PROGRAM = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from cps4_monai.methods import GraphCL, MCNet, SSNet
from cps4_monai.networks import ClassMemory, GraphBranch, MutualDecoders, ResUNet, unwrap
from cps4_monai.methods.ss_net import _of_all_processes
from cps4_monai.processes import join_processes, leave_processes

join_processes("gloo", 30)
own = torch.tensor([[[10.0], [11.0]], [[20.0], [21.0]]]) + 100 * dist.get_rank()  # (C, K, 1)
assert _of_all_processes(own)[..., 0].tolist() == [[10, 11, 110, 111], [20, 21, 120, 121]]
CASES = [(MCNet, MutualDecoders, {}), (SSNet, ClassMemory, {}), (GraphCL, GraphBranch, {"pretrain_fraction": 0.5}),
         (SSNet, ClassMemory, {"weigh_memory": False, "batch_statistics": "joint"})]
for kind, wrap, settings in CASES:
    torch.manual_seed(0)
    student = DistributedDataParallel(wrap(ResUNet(1, 3, features=(4, 8))), broadcast_buffers=False)
    before = torch.cat([p.detach().flatten() for p in unwrap(student).backbone.parameters()])
    method = kind(student, torch.optim.Adam(student.parameters(), lr=0.1), **settings)
    method.total_updates = 4
    torch.manual_seed(1 + dist.get_rank())  # each process has slices of its own
    for _ in range(4):
        image = torch.rand(8, 1, 8, 8)
        label = torch.randint(0, 3, (4, 1, 8, 8))
        batch = {"labeled": {"image": image[:4], "label": label}, "unlabeled": {"image": image[4:]}}
        method.train()
        method.losses(method.forward(batch), batch)["loss"].backward()
        method.optimizers["student"].step()
        method.optimizers["student"].zero_grad()
        method.after_step()
        own = torch.cat([value.flatten().float() for value in unwrap(student).state_dict().values()])
        everywhere = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(everywhere, own)
        assert torch.equal(*everywhere), f"{kind.__name__}: parameters, statistics and memory differ"
    after = torch.cat([p.detach().flatten() for p in unwrap(student).backbone.parameters()])
    assert (before != after).float().mean() > 0.9, kind.__name__
leave_processes()
"""


def test_networks_with_parts_stay_the_same_in_both_processes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run_in_two_processes(program)
