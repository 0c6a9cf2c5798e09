"""The example of docs/add-a-method.md, taken from the page: one file and one overlay, trained for one iteration."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import cps4_monai.methods
from cps4_monai.data.phantom import write_phantom_dataset
from cps4_monai.workflow import CPS4Workflow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-method.md"
NAME = "entropy_minimisation"
TINY = {
    "features": [4, 8],
    "amp": False,
    "spacing_mm": None,
    "slice_size": [32, 16],
    "max_epochs": 1,
    "iterations_per_epoch": 1,
    "val_interval": 1,
    "log_every": 1,
    "num_workers": 0,
    "show_progress": False,
    "device_name": "cpu",
}


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    return text


def test_the_overlay_gives_its_reasons_as_those_of_the_bundle_do():
    settings = json.loads(block("json"))
    why = settings.pop("_meta_")["why"]
    assert set(why) == set(settings) and all(len(reason.split()) > 3 for reason in why.values())


@pytest.fixture
def overlay(tmp_path, monkeypatch):
    """The page's file as a module of ``cps4_monai.methods``, and its overlay on disk."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / f"{NAME}.py").write_text(block("python"), encoding="utf-8")
    package = cps4_monai.methods
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "methods")])
    path = tmp_path / f"{NAME}.json"
    path.write_text(block("json"), encoding="utf-8")
    yield path
    sys.modules.pop(f"{package.__name__}.{NAME}", None)
    package.__dict__.pop(NAME, None)


@pytest.fixture
def datalist(tmp_path):
    folder = tmp_path / "phantom"
    write_phantom_dataset(folder, subjects=4, seed=0, size=48, slices=2, labeled=1, val=1, test=1)
    return folder / "datalist.json"


def run(overlay: Path, datalist: Path, output: Path, **more) -> CPS4Workflow:
    workflow = CPS4Workflow(
        overlays=[str(overlay)],
        run_id="training_stage2",
        datalist=str(datalist),
        dataset_dir=str(datalist.parent),
        output_dir=str(output),
        **{**TINY, **more},
    )
    workflow.initialize()
    workflow.run()
    return workflow


def test_one_file_and_one_overlay_make_a_method(overlay, datalist, tmp_path):
    workflow = run(overlay, datalist, tmp_path / "run")
    method = workflow.parser.get_parsed_content("train#method")
    assert type(method).__name__ == "EntropyMinimisation" and method.updates == 1
    log = pd.read_csv(tmp_path / "run" / "stage2" / "metrics.csv").set_index("name")["value"]
    assert log["train_loss"] == pytest.approx(log["train_loss_supervised"] + 0.1 * log["train_loss_entropy"], rel=1e-4)
    assert "val_dice" in log.index
    weights = torch.load(tmp_path / "run" / "stage2" / "model.pt", weights_only=True)
    assert weights.keys() == method.deployed.state_dict().keys()


def test_a_setting_of_the_overlay_is_checked_by_name_like_any_other(overlay, datalist, tmp_path):
    with pytest.raises(ValueError, match="did you mean entropy_weight"):
        run(overlay, datalist, tmp_path / "run", entropy_wieght=0.5)
