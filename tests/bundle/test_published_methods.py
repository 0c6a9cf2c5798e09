"""Overlays of published methods on the shipped config: they train on tiny volumes and leave a plain network.

From training to an exported bundle, each of them goes in test_every_method.py.
"""

from __future__ import annotations

import functools
import json

import pytest
import torch

from cps4_monai.networks import ResUNet


@pytest.fixture(scope="module")
def run_of(run_tiny, tmp_path_factory):
    """Function that trains stage 2 with overlays, once for all tests; gives the run's folder and its workflow."""

    @functools.cache
    def make(*overlays):
        folder = tmp_path_factory.mktemp("-".join(overlays).replace("/", "-"))
        return folder, run_tiny("training_stage2", folder, overlays)

    return make


@pytest.mark.parametrize(
    ("overlays", "name", "updates"),
    [
        (("unimatch_v2",), "UniMatchV2", 2),
        (("unimatch_v2", "unimatch_v2_paper"), "UniMatchV2", 2),
        (("ucmt",), "UCMT", 4),
        (("ucmt", "ucmt_paper"), "UCMT", 4),
        (("bcp",), "BCP", 2),
        (("bcp", "bcp_paper"), "BCP", 2),
        (("bcp", "bcp_first_phase"), "BCP", 2),
        (("graphcl",), "GraphCL", 2),
        (("graphcl", "graphcl_paper"), "GraphCL", 2),
        (("mc_net",), "MCNet", 2),
        (("mc_net", "mc_net_paper"), "MCNet", 2),
        (("ss_net",), "SSNet", 2),
        (("ss_net", "ss_net_paper"), "SSNet", 2),
    ],
)
def test_an_overlay_trains_and_leaves_a_plain_network(overlays, name, updates, run_of):
    folder, workflow = run_of(*overlays)
    method = workflow.parser.get_parsed_content("train#method")
    assert type(method).__name__ == name and method.updates == updates == method.total_updates
    state = torch.load(folder / "stage2" / "model.pt", weights_only=True)
    ResUNet(1, 20, features=(4, 8)).load_state_dict(state, strict=True)
    record = json.loads((folder / "stage2" / "run.json").read_text())["starts"][-1]
    assert record["budget_notes"] == list(method.budget_notes)
    assert "train_seconds_per_iteration" in (folder / "stage2" / "metrics.csv").read_text()


def test_paper_settings_reach_the_optimiser(run_tiny, tmp_path):
    workflow = run_tiny("training_stage2", tmp_path, ("unimatch_v2", "unimatch_v2_paper"), run=False)
    rest, decoder, head = workflow.parser.get_parsed_content("train#optimizer").param_groups
    assert decoder["lr"] == head["lr"] == pytest.approx(40 * rest["lr"])


@pytest.mark.parametrize("name", ["bcp", "graphcl", "mc_net", "ss_net"])
def test_the_paper_overlays_of_the_copy_paste_and_consistency_families_take_sgd(name, run_tiny, tmp_path):
    workflow = run_tiny("training_stage2", tmp_path, (name, f"{name}_paper"), run=False)
    optimizer = workflow.parser.get_parsed_content("train#optimizer")
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 1e-4)
