"""Fixtures for all tests: one thread, a fixed seed, and the real data where they are at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

SPIDER = Path(os.environ.get("CPS4_SPIDER_DIR", Path(__file__).resolve().parents[2] / "shared" / "data" / "spider"))


@pytest.fixture(scope="session")
def spider_dir() -> Path:
    """Folder with the derived SPIDER data: ``CPS4_SPIDER_DIR``, or ``../shared/data/spider`` beside the repository."""
    if not (SPIDER / "splits.json").is_file():
        pytest.skip("real data not here: set CPS4_SPIDER_DIR to the folder that holds splits.json")
    return SPIDER


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a phantom of 10 subjects, 64 pixels in plane: 2 labeled, 4 unlabeled, 2 validation, 2 test."""
    from cps4_monai.data.phantom import write_phantom_dataset

    folder = tmp_path_factory.mktemp("tiny_data")
    write_phantom_dataset(folder, 10, 0, size=64, slices=2, labeled=2, val=2, test=2, sacrum_free_share=0)
    return folder


@pytest.fixture(scope="session")
def tiny_overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Overlay of train.json: networks and budgets of a second or two, a text encoder on disk, a ViT from scratch."""
    from cps4_monai.anatomy import MRSPINESEG
    from cps4_monai.text import write_tiny_text_encoder

    folder = tmp_path_factory.mktemp("tiny_overlay")
    settings = {
        "device_name": "cpu",
        "spacing_mm": 7.5,
        "slice_size": [64, 32],
        "features": [4, 8],
        "num_workers": 0,
        "max_epochs": 1,
        "iterations_per_epoch": 2,
        "batch_size_labeled": 2,
        "batch_size_unlabeled": 2,
        "val_interval": 1,
        "log_every": 1,
        "min_free_gib": 0.0,
        "show_progress": False,
        "stage1#max_epochs": 1,
        "stage1#iterations_per_epoch": 2,
        "stage1#batch_size": 2,
        "stage1#text_model": str(write_tiny_text_encoder(folder / "text", MRSPINESEG.prompts, 16, 1, 2)),
        "stage1#vision_model": "vit_tiny_patch16_224",
        "stage1#vision_pretrained": False,
        "stage1#image_encoder#patch_size": 16,
        "stage1#image_encoder#embed_dim": 16,
        "stage1#image_encoder#depth": 1,
        "stage1#image_encoder#num_heads": 2,
        "stage1#embedding_dim": 16,
    }
    path = folder / "tiny.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run_tiny(tiny_data: Path, tiny_overlay: Path) -> Callable[..., Any]:
    """Builds the bundle's workflow on the tiny data and runs it: ``run_tiny(run_id, output, overlays, **override)``."""
    from cps4_monai.workflow import CPS4Workflow

    def build(run_id: str, output: Path, overlays: tuple[str, ...] = (), run: bool = True, **override: Any) -> Any:
        tracking = override.pop("tracking", None)
        given = {"datalist": str(tiny_data / "datalist.json"), "dataset_dir": str(tiny_data),
                 "cache_dir": str(tiny_data / "cache"), "output_dir": str(output), **override}  # fmt: skip
        workflow = CPS4Workflow(overlays=[*overlays, str(tiny_overlay)], run_id=run_id, tracking=tracking, **given)
        workflow.initialize()
        if run:
            workflow.run()
            workflow.finalize()
        return workflow

    return build


@pytest.fixture(scope="session")
def tiny_run(run_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a tiny run of both stages, tracked by MLflow."""
    folder = tmp_path_factory.mktemp("tiny_run")
    run_tiny("run", folder, tracking="mlflow")
    return folder
