"""Writes down, beside a run's results, what it was run with."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow

import cps4_monai
from cps4_monai.atomic_file import write_atomically
from cps4_monai.encoding import ESCAPED
from cps4_monai.plan import Plan, check_plan, write_plan
from cps4_monai.run_folder import RECORD

logger = logging.getLogger(__name__)

_PACKAGES = ("torchvision", "monai", "pytorch-ignite", "timm", "transformers", "numpy", "nibabel")


def versions() -> dict[str, str]:
    """Versions of this package, of what it computes with, and of the commit it runs from where there is one."""
    installed = {"cps4-monai": cps4_monai.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    installed["torch"] = torch.__version__  # with the build, which the package metadata lacks
    installed["cuda"] = torch.version.cuda or "none"
    commit = git_commit()
    return {**installed, "commit": commit} if commit else installed


def git_commit() -> str | None:
    """Commit of the source tree that the package runs from, with "+changes" if it was modified; None if installed."""
    folder = Path(cps4_monai.__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("no commit recorded: %s", error)
        return None


class RunRecord:
    """Saves settings and versions as ``run.json``, the plan as ``plan.json``, and copies the log to ``run.log``.

    A resumed run appends to both: ``run.json`` holds one entry per start that trained. Settings and plan are written
    when the first epoch begins: a start that is refused, by the checkpoint or otherwise, leaves what is there.

    Args:
        output_dir: the run's folder.
        settings: all settings of the run, plain values; what is not plain is written as text.
        plan: what the weights of this run will depend on; written before there are any.
    """

    def __init__(
        self,
        output_dir: str | Path,
        settings: Mapping[str, Any] | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.settings = dict(settings or {})
        self.plan = plan
        self._file: logging.FileHandler | None = None
        self._written = False

    def attach(self, engine: Workflow) -> None:
        """Registers with a trainer; comes first among its handlers, so that the log misses nothing."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.start)
            engine.add_event_handler(Events.EPOCH_STARTED, self.write)
            engine.add_event_handler(Events.COMPLETED, self.stop)

    def start(self, engine: Workflow) -> None:
        """Opens ``run.log``.

        Raises:
            PlanError: the folder holds weights of another plan.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if self.plan is not None:
            check_plan(self.output_dir, self.plan)
        self._written = False
        if self._file is None:
            for earlier in [one for one in logging.getLogger().handlers if isinstance(one, _RunLog)]:
                _close(earlier)  # of a run that ended by an error, in a process that goes on
            self._file = _RunLog(self.output_dir / "run.log", encoding="utf-8", errors=ESCAPED)
            self._file.setLevel(logging.INFO)
            self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            logging.getLogger().addHandler(self._file)
        logger.info("run of %d epochs, %d iterations in total", engine.state.max_epochs, self._iterations(engine))

    def write(self, engine: Workflow) -> None:
        """Writes ``run.json`` and ``plan.json``, once in a start."""
        if self._written:
            return
        if self.plan is not None:
            write_plan(self.output_dir, self.plan, checked=True)  # by `start`
        path = self.output_dir / RECORD
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.is_file() else []
        device = engine.state.device
        now = {
            "command": sys.argv,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "threads": torch.get_num_threads(),
            "precision": getattr(getattr(engine, "precision", None), "name", None),
            "epochs": engine.state.max_epochs,
            "iterations": self._iterations(engine),
            "budget_notes": list(engine.method.budget_notes) if hasattr(engine, "method") else [],
            "versions": versions(),
            "settings": self.settings,
        }
        write_atomically(path, json.dumps({"starts": [*starts, now]}, indent=2, default=str) + "\n")
        self._written = True

    @staticmethod
    def _iterations(engine: Workflow) -> int:
        return int((engine.state.epoch_length or 0) * engine.state.max_epochs)

    def stop(self, engine: Workflow) -> None:
        """Closes ``run.log``."""
        if self._file is not None:
            _close(self._file)
            self._file = None


class _RunLog(logging.FileHandler):
    """The log of the run that trains in this process; one at a time."""


def _close(log: logging.Handler) -> None:
    logging.getLogger().removeHandler(log)
    log.close()
