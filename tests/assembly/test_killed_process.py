"""A process that is really killed: torchrun starts all again, and an epoch at most is trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from two_processes import run_in_two_processes

from cps4_monai.training_lock import LOCK

pytestmark = pytest.mark.cluster

PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from ignite.engine import Events
from cps4_monai.workflow import CPS4Workflow

rank, folder = int(os.environ["RANK"]), Path(sys.argv[2])

def kill_once(engine):
    if engine.state.epoch == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

for name, victim in (("whole", None), ("second", 1), ("first", 0)):
    given = json.loads(Path(sys.argv[1]).read_text())
    workflow = CPS4Workflow(run_id="training_stage2", output_dir=str(folder / name), **given)
    workflow.initialize()
    if rank == victim:
        marker = folder / f"{name}.killed"
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), kill_once)
    workflow.run()
workflow.finalize()
"""


@pytest.fixture(scope="module")
def folder(tiny_data: Path, tiny_overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole``, a run that nobody disturbed; ``first`` and ``second``, in which that process was killed in epoch 3."""
    folder = tmp_path_factory.mktemp("killed")
    given = {"overlays": ["mean_teacher", str(tiny_overlay), "multi_gpu_train"], "device_name": "cpu", "max_epochs": 4,
             "datalist": str(tiny_data / "datalist.json"), "dataset_dir": str(tiny_data),
             "cache_dir": str(folder / "cache")}  # fmt: skip
    (folder / "program.py").write_text(PROGRAM)
    (folder / "given.json").write_text(json.dumps(given))
    given_to_it = (folder / "given.json", folder)
    apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    run_in_two_processes(folder / "program.py", *given_to_it, restarts=2, **apart)
    return folder


@pytest.mark.parametrize("killed", ["first", "second"])
def test_a_killed_process_costs_an_epoch_at_most_and_changes_nothing(folder: Path, killed: str) -> None:
    assert (folder / f"{killed}.killed").is_file()
    assert len(json.loads((folder / killed / "stage2" / "run.json").read_text())["starts"]) >= 2
    log = (folder / killed / "stage2" / "run.log").read_text()
    assert "2 of 4 epochs done" in log, "killed in epoch 3, it goes on after epoch 2"
    assert not list((folder / killed).rglob("*.tmp*"))
    assert [path.name for path in (folder / killed).rglob(".*")] == [LOCK]
    whole, again = (torch.load(folder / n / "stage2" / "model.pt", weights_only=True) for n in ("whole", killed))
    assert all(torch.equal(whole[name], again[name]) for name in whole), "bit for bit that of the undisturbed run"
    lines = [
        [line for line in (folder / name / "stage2" / "metrics.csv").read_text().splitlines() if "seconds" not in line]
        for name in ("whole", killed)
    ]
    assert lines[0] == lines[1]
