"""The walks in docs/architecture.md are what is called, in this order."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import click
from click.testing import CliRunner

from cps4_monai.commands.segment import segment
from cps4_monai.commands.train import train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


def walk(name: str) -> list[str]:
    """The functions of a list, as the page has them: ``cps4_monai/workflow.py::CPS4Workflow.run``."""
    _, _, rest = PAGE.read_text("utf-8").partition(f"<!-- walk: {name} -->")
    lines = rest.strip().splitlines()
    numbered = [re.match(r"(\d+)\. `([\w/]+\.py::[\w.]+)`", line) for line in lines]
    found = [match for match in numbered[: next((i for i, m in enumerate(numbered) if m is None), None)] if match]
    assert [int(match[1]) for match in found] == list(range(1, len(found) + 1)) and len(found) > 20
    return [match[2] for match in found]


def code_of(name: str) -> CodeType:
    """The code of a function of the page."""
    file, _, path = name.partition("::")
    target: Any = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for part in path.split("."):
        target = inspect.getattr_static(target, part)
        target = target.__func__ if isinstance(target, staticmethod | classmethod) else target
    return inspect.unwrap(target.callback if isinstance(target, click.Command) else target).__code__


@contextmanager
def first_calls(of: dict[CodeType, str]) -> Iterator[list[str]]:
    """Names of these functions as they are called for the first time, in every thread."""
    called: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in of and of[frame.f_code] not in called:
            called.append(of[frame.f_code])

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def called_in(name: str, run: Callable[[], Any]) -> list[str]:
    with first_calls({code_of(function): function for function in walk(name)}) as called:
        result = run()
    assert result.exit_code == 0, result.output
    return called


def test_one_batch_of_stage_2(tiny_run: Path, tiny_data: Path, tiny_overlay: Path, tmp_path: Path) -> None:
    options = ["--datalist", str(tiny_data / "datalist.json"), "-o", str(tmp_path), "--overlay", str(tiny_overlay)]
    settings = {
        "stage1_checkpoint": tiny_run / "stage1" / "prompted_vision.pt",
        "cache_dir": tiny_data / "cache",
        "iterations_per_epoch": 1,
        "geometry#affine_prob": 1.0,
    }
    options += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert called_in("batch", lambda: CliRunner().invoke(train, ["stage2", *options])) == walk("batch")


def test_one_scan(tiny_data: Path, tmp_path: Path) -> None:
    scan = min(tiny_data.rglob("*_T2w.nii.gz"))
    options = [str(scan), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert called_in("scan", lambda: CliRunner().invoke(segment, options)) == walk("scan")
