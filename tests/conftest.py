"""Fixtures for all tests: one thread, a fixed seed, and the real data where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

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
