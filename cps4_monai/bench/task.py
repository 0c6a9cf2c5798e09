"""The process behind one job: ``python -m cps4_monai.bench.task FOLDER SECTION...`` trains, then scores each section.

A job is the bundle's own run ids with the config that the study was planned with. Started again, it goes on where it
stopped: the training by the bundle's ``ResumeHandler``, the sections by ``done.json``.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cps4_monai.bench.folders import (
    DONE,
    PLANNED,
    SETTINGS,
    TASK,
    preparing,
    read_json_or_empty,
    settings_digest,
    write_json,
)
from cps4_monai.file_hash import file_sha256
from cps4_monai.run_folder import RESUME, STAGE1, STAGE1_WEIGHTS, STAGE2, STAGE2_WEIGHTS

logger = logging.getLogger(__name__)
RESUME_FILES = {"stage1": STAGE1 / RESUME, "cell": STAGE2 / RESUME}


def run_task(folder: Path, sections: list[str]) -> None:
    """Trains, then predicts and scores the sections; whatever is done is passed over.

    Args:
        folder: with ``task.json``, as :meth:`cps4_monai.bench.plan.Job.prepare` writes it.
        sections: of the datalist.

    Raises:
        FileNotFoundError: no such task.
        ValueError: the settings in the folder are not those that the task was planned with.
    """
    if not (folder / TASK).is_file():
        raise FileNotFoundError(f"{folder / TASK} is not there; expected the folder of a job that a study has begun")
    with _locked(folder):
        task = _task_of(folder)
        checkpoint = folder / RESUME_FILES[task["kind"]]
        if "training" not in _seconds(folder):
            spent, started = _spent(folder, checkpoint), time.monotonic()
            _workflow(task, [str(folder / PLANNED)], task["run_id"], {})
            _record(folder, "training", spent + time.monotonic() - started, **_hashes_of(task, folder))
        checkpoint.unlink(missing_ok=True)  # a kill may have left it behind when the training was done
        for section in sections:
            if section not in _seconds(folder):
                started = time.monotonic()
                _evaluate(task, folder, section)
                _record(folder, section, time.monotonic() - started)


def _task_of(folder: Path) -> dict[str, Any]:
    """What is to be done, once it is sure that the folder is still that of the training that was planned."""
    with preparing(folder):
        task: dict[str, Any] = json.loads((folder / TASK).read_text(encoding="utf-8"))
        found = settings_digest(read_json_or_empty(folder / SETTINGS))
    if task.get("settings_sha256", found) != found:  # tasks of versions before have no digest
        raise ValueError(
            f"{folder / SETTINGS}: not the settings that {TASK} beside it was planned with; another command wrote "
            "them, so start the same command again: it plans a folder for each of the two trainings"
        )
    return task


def _evaluate(task: dict[str, Any], folder: Path, section: str) -> None:
    from cps4_monai.vision import holds_prompted_vision

    own: dict[str, Any] = {"section": section, "evaluation_dir": str(folder / section)}
    if task["kind"] == "stage1":
        if not holds_prompted_vision(folder / STAGE1_WEIGHTS):
            logger.info("%s: an assistant makes no prompt map that could be scored", folder.name)
            return
        run_id = "evaluate_prompt_map"
    else:
        run_id = "run"
        # Tables only: the study's report draws what it shows.
        own |= {"evaluate#report#max_pictures": 0, "evaluate#report#jobs": 1, "evaluate#attention": None}
        own |= {"evaluate#metrics": None}
        # On slices cropped as in training, as all studies before; the plain argmax beside the decoded levels.
        own |= {"evaluation_size": "@slice_size"}
    _workflow(task, [str(folder / "config.json"), "evaluate"], run_id, own)


def _workflow(task: dict[str, Any], configs: list[str], run_id: str, own: dict[str, Any]) -> None:
    from cps4_monai.workflow import run_workflow

    run_workflow(configs, run_id=run_id, **{**task["places"], **own})


def _seconds(folder: Path) -> dict[str, float]:
    return dict(read_json_or_empty(folder / DONE).get("seconds", {}))


def _spent(folder: Path, checkpoint: Path) -> float:
    """Seconds of earlier starts up to the checkpoint that this one goes on from; notes when this one begins."""
    done, spent = read_json_or_empty(folder / DONE), 0.0
    if checkpoint.is_file() and "since" in done:
        spent = done["spent"] + max(0.0, checkpoint.stat().st_mtime - done["since"])
    write_json(folder / DONE, {**done, "since": time.time(), "spent": spent})
    return spent


def _hashes_of(task: dict[str, Any], folder: Path) -> dict[str, str]:
    """SHA-256 of the weights that a job made, and of the stage 1 that it made or trained with.

    A stage 1 that is trained again is another one.
    """
    if task["kind"] == "stage1":
        return {"stage1_sha256": file_sha256(folder / STAGE1_WEIGHTS)}
    own, stage1 = {"weights_sha256": file_sha256(folder / STAGE2_WEIGHTS)}, task["places"].get("stage1_checkpoint")
    return own if stage1 is None else {**own, "stage1_sha256": file_sha256(stage1)}


def _record(folder: Path, step: str, seconds: float, **more: Any) -> None:
    """Notes a step as done, and more of it, in ``done.json``."""
    from cps4_monai.handlers.run_record import versions

    done = {**read_json_or_empty(folder / DONE), **more}
    done["seconds"] = {**done.get("seconds", {}), step: round(seconds, 2)}
    done["finished"] = {**done.get("finished", {}), step: datetime.now(timezone.utc).isoformat(timespec="seconds")}
    if step == "training":  # what the report states; a section may be scored elsewhere, later
        done["threads"] = int(os.environ.get("OMP_NUM_THREADS", "0")) or None
        done["machine"] = machine()
        done["versions"] = versions()
    write_json(folder / DONE, done)


def machine() -> str:
    """Processor and cores, in words; a GPU stands in the run's own ``run.json``."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: a second one waits, and finds everything done."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.warning("%s: another process works on it; waiting", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def main(arguments: list[str]) -> int:
    """Entry point; the last line of a failure is what a user can act on."""
    from cps4_monai.failure import one_line

    # MONAI 1.6 calls its own deprecated argument; the user can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    try:
        run_task(Path(arguments[0]), arguments[1:])
    except Exception as error:
        logger.exception("job failed")
        sys.stdout.flush()
        sys.stderr.write(f"Error: {one_line(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
