"""The examples in docstrings run as they stand, and the classes that people build have one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(file for file in (ROOT / "cps4_monai").rglob("*.py") if ">>> " in file.read_text(encoding="utf-8"))
BUILT_BY_HAND = [
    "anatomy.Anatomy",
    "data.cache.SliceCache",
    "data.entries.Entry",
    "data.in_plane.InPlane",
    "data.resampling.AxisMap",
    "data.sagittal.SagittalGrid",
    "data.scan_labels.ScanScores",
    "levels.settings.LevelThresholds",
    "losses.attention.AttentionLoss",
    "losses.presence.PresenceLoss",
    "metrics.overlap.OverlapCounts",
    "metrics.spine_dice.SpineDice",
    "networks.resunet.ResUNet",
    "plan.plan.Plan",
    "prompt_map.mapper.PromptMapper",
    "scan_names.file_name.FileName",
    "transforms.augmentation.ClipIntensityd",
    "transforms.augmentation.StrongViewd",
    "transforms.slice_geometry.RandSliceGeometryd",
    "transforms.volume_io.ToSagittalSlicesd",
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_examples_run_as_they_stand(file):
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    result = doctest.testmod(importlib.import_module(name), verbose=False)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("name", BUILT_BY_HAND)
def test_classes_that_people_build_have_an_example(name):
    module, cls = name.rsplit(".", 1)
    assert ">>> " in (getattr(importlib.import_module(f"cps4_monai.{module}"), cls).__doc__ or "")
