"""Overlays of published methods on the shipped config: they train on tiny volumes and leave a plain network."""

from __future__ import annotations

import json

import pytest
import torch

from cps4_monai.networks import ResUNet


@pytest.mark.parametrize(
    ("overlays", "name", "updates"),
    [
        (("unimatch_v2",), "UniMatchV2", 2),
        (("unimatch_v2", "unimatch_v2_paper"), "UniMatchV2", 2),
        (("ucmt",), "UCMT", 4),
        (("ucmt", "ucmt_paper"), "UCMT", 4),
        (("bcp",), "BCP", 2),
    ],
)
def test_an_overlay_trains_and_leaves_a_plain_network(overlays, name, updates, run_tiny, tmp_path):
    workflow = run_tiny("training_stage2", tmp_path, overlays)
    method = workflow.parser.get_parsed_content("train#method")
    assert type(method).__name__ == name and method.updates == updates == method.total_updates
    state = torch.load(tmp_path / "stage2" / "model.pt", weights_only=True)
    ResUNet(1, 20, features=(4, 8)).load_state_dict(state, strict=True)
    record = json.loads((tmp_path / "stage2" / "run.json").read_text())["starts"][-1]
    assert record["budget_notes"] == list(method.budget_notes)
    assert "train_seconds_per_iteration" in (tmp_path / "stage2" / "metrics.csv").read_text()


def test_paper_settings_reach_the_optimiser(run_tiny, tmp_path):
    workflow = run_tiny("training_stage2", tmp_path, ("unimatch_v2", "unimatch_v2_paper"), run=False)
    rest, decoder, head = workflow.parser.get_parsed_content("train#optimizer").param_groups
    assert decoder["lr"] == head["lr"] == pytest.approx(40 * rest["lr"])
