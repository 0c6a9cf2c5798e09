"""Two processes train methods: every network and every part of one has one value everywhere, in every phase."""

from __future__ import annotations

import csv
import json
import math

import pytest
from two_processes import run_in_two_processes

PROGRAM = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from cps4_monai.methods import BCP, UCMT, VESSA, DuSSS, GraphCL, MCNet, SSNet, UniMatchV2
from cps4_monai.networks import (
    ClassMemory, GraphBranch, MaskedFeatures, MutualDecoders, ResUNet, StudentPair, TextGuided, deployable, unwrap)
from cps4_monai.methods.ss_net import _of_all_processes
from cps4_monai.processes import join_processes, leave_processes

join_processes("gloo", 30)
own = torch.tensor([[[10.0], [11.0]], [[20.0], [21.0]]]) + 100 * dist.get_rank()  # (C, K, 1)
assert _of_all_processes(own)[..., 0].tolist() == [[10, 11, 110, 111], [20, 21, 120, 121]]

class FrozenVision:  # stands for the image side of stage 1
    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(6, 16, generator=generator)
        self.embeddings = torch.randn(3, 6, generator=generator)

    def project(self, image):
        return torch.einsum("ek,bkhw->behw", self.weight, torch.nn.functional.pixel_unshuffle(image, 4))

    def logits(self, tokens):
        return torch.einsum("ce,behw->bchw", self.embeddings, tokens)


vision, masked, phases = FrozenVision(), {"threshold": 0.4}, {"pretrain_fraction": 0.5}
CASES = [(MCNet, MutualDecoders, {}), (SSNet, ClassMemory, {}), (GraphCL, GraphBranch, phases),
         (SSNet, ClassMemory, {"weigh_memory": False, "batch_statistics": "joint"}),
         (BCP, lambda network: network, phases), (UCMT, StudentPair, {"grid": 4}),
         (DuSSS, lambda network: TextGuided(network, vision, width=8), {"vision": vision}),
         (UniMatchV2, MaskedFeatures, masked), (VESSA, MaskedFeatures, masked),
         (VESSA, MaskedFeatures, {**masked, "fusion": "additional", "batch_statistics": "joint"})]
for kind, wrap, settings in CASES:
    torch.manual_seed(0)
    student = DistributedDataParallel(wrap(ResUNet(1, 3, features=(4, 8))), broadcast_buffers=False)
    before = torch.cat([p.detach().flatten() for p in deployable(student).parameters()])
    method = kind(student, torch.optim.Adam(student.parameters(), lr=0.1), **settings)
    method.total_updates = 4 * method.steps_per_batch
    torch.manual_seed(1 + dist.get_rank())  # each process has slices of its own
    for _ in range(4):
        image, label = torch.rand(16, 1, 8, 8), torch.randint(0, 3, (4, 1, 8, 8))
        views = dict(zip(("image", "image_strong", "image_strong_2"), image[4:].split(4)))
        views["pseudo_probabilities"] = torch.randn(4, 3, 8, 8).mul(3).softmax(1)  # of an assistant
        batch = {"labeled": {"image": image[:4], "label": label}, "unlabeled": views}
        method.train()
        for outputs in method.steps(batch):
            method.losses(outputs, batch)["loss"].backward()
            method.optimizers["student"].step()
            method.optimizers["student"].zero_grad()
            method.after_step()
            states = [unwrap(network).state_dict().values() for network in method.networks.values()]
            own = torch.cat([value.flatten().float() for state in states for value in state])
            everywhere = [torch.empty_like(own) for _ in range(2)]
            dist.all_gather(everywhere, own)
            assert torch.equal(*everywhere), f"{kind.__name__}: parameters, statistics and memory differ"
            method.train()
    assert method.updates == method.total_updates, kind.__name__
    after = torch.cat([p.detach().flatten() for p in deployable(student).parameters()])
    assert (before != after).float().mean() > 0.9, kind.__name__
leave_processes()
"""


RUNS = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from cps4_monai.networks import unwrap
from cps4_monai.workflow import CPS4Workflow

overlays, settings = json.loads(Path(sys.argv[1]).read_text())

def train():  # what is built goes with it: processes part with nothing open
    workflow = CPS4Workflow(overlays=overlays, run_id="run", **settings)
    workflow.initialize()
    workflow.run()
    for name in ("stage1#method", "train#method"):
        method = workflow.parser.get_parsed_content(name)
        states = [unwrap(network).state_dict().values() for network in method.networks.values()]
        own = torch.cat([value.flatten().float() for state in states for value in state])
        everywhere = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(everywhere, own)
        assert torch.equal(*everywhere), f"{overlays[0]}, {name}: networks differ"
        assert method.updates == 4 and own.isfinite().all(), name
    workflow.finalize()

train()
"""
VESSA = {"vessa_width": 16, "vessa_heads": 2, "vessa_reference_depth": 1, "vessa_decoder_depth": 1}


@pytest.mark.parametrize(("name", "more"), [("mgca", {}), ("dusss", {}), ("vessa", VESSA)])
def test_both_stages_of_a_method_with_a_first_stage_of_its_own_train_alike_in_both_processes(
    name, more, tiny_data, tiny_overlay, tmp_path
):
    (tmp_path / "program.py").write_text(RUNS)
    places = {"datalist": str(tiny_data / "datalist.json"), "dataset_dir": str(tiny_data)}
    places |= {"cache_dir": str(tiny_data / "cache"), "output_dir": str(tmp_path / "run"), "device_name": "cpu"}
    epochs = {"max_epochs": 2, "stage1#max_epochs": 2}
    given = [[name, str(tiny_overlay), "multi_gpu_train"], {**places, **epochs, **more}]
    (tmp_path / "run.json").write_text(json.dumps(given))
    run_in_two_processes(tmp_path / "program.py", tmp_path / "run.json")
    for stage in ("stage1", "stage2"):
        with (tmp_path / "run" / stage / "metrics.csv").open() as file:
            losses = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "train_loss"]
        assert losses and all(map(math.isfinite, losses)), stage


def test_networks_and_their_parts_stay_the_same_in_both_processes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run_in_two_processes(program)
