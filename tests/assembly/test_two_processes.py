"""Whole runs in two real processes equal runs of one process with the same global batch."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import run_in_two_processes

PROGRAM = """
import json, os, sys
from pathlib import Path
from cps4_monai.workflow import CPS4Workflow

runs, record = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
written, devices = [], []

def note(event, arguments):
    if event == "open" and (set(str(arguments[1])) & set("wax+") or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
        written.append(str(arguments[0]))
    if event == "os.rename":
        written.append(str(arguments[1]))

sys.addaudithook(note)

def train():  # the hook keeps what the program has under a name
    for run in runs:
        workflow = CPS4Workflow(overlays=run["overlays"], run_id=run["run_id"], **run["settings"])
        workflow.initialize()
        if run["run_id"] == "training_stage2" and "supervised" not in run["overlays"]:
            method, provider = (workflow.parser.get_parsed_content(f"train#{name}") for name in ("method", "provider"))
            if method.needs_prompt_map:
                answer = provider.mapper.forward
                provider.mapper.forward = lambda *given, **more: devices.append(
                    (len(given[0]), str(given[0].device))) or answer(*given, **more)
        workflow.run()
        folder = run["settings"]["output_dir"]
        own = [name for name in written if name.startswith(folder) and Path(name).is_file()]
        record.with_name(f"{Path(folder).name}-{os.environ['RANK']}.json").write_text(json.dumps([own, devices]))
    workflow.finalize()

train()
"""
# By run: method, which subjects validate it: one for two processes, three, or two.
RUNS = {
    "stage1": ("training_stage1", (), "$@data.validation[:1]"),
    "supervised": ("training_stage2", ("supervised",), "$[*@data.validation, *@data.test][:3]"),
    "mean_teacher": ("training_stage2", ("mean_teacher",), "$@data.validation"),
    "cps4": ("training_stage2", (), "$@data.validation"),
}
SCHEDULE = {"max_epochs": 2, "stage1#max_epochs": 2}
ONE = {"batch_size_labeled": 4, "batch_size_unlabeled": 4, "stage1#batch_size": 4}


@pytest.fixture(scope="module")
def folders(
    run_tiny: Callable[..., Any], tiny_data: Path, tiny_overlay: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """``one`` and ``two``, each with a folder per run, and what the processes of ``two`` noted."""
    folder = tmp_path_factory.mktemp("processes")
    runs = []
    for name, (run_id, overlays, validation) in RUNS.items():
        settings = {**SCHEDULE, "validation_entries": validation}
        if name != "stage1":
            settings["stage1_checkpoint"] = str(folder / "one" / "stage1" / "stage1" / "prompted_vision.pt")
        run_tiny(run_id, folder / "one" / name, overlays, **settings, **ONE)
        places = {"datalist": str(tiny_data / "datalist.json"), "dataset_dir": str(tiny_data),
                  "cache_dir": str(tiny_data / "cache"), "output_dir": str(folder / "two" / name)}  # fmt: skip
        given = [*overlays, str(tiny_overlay), "multi_gpu_train"]
        runs.append({"run_id": run_id, "overlays": given, "settings": {**places, **settings, "device_name": "cpu"}})
    (folder / "program.py").write_text(PROGRAM)
    (folder / "runs.json").write_text(json.dumps(runs))
    run_in_two_processes(*(folder / name for name in ("program.py", "runs.json", "record")))
    yield folder


def figures(run: Path) -> dict[tuple[str, ...], float]:
    """Every loss and every metric of a run by iteration and name, but the times."""
    (path,) = run.rglob("metrics.csv")
    with path.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    value = list(lines[0])[-1]
    return {tuple(line.values())[:-1]: float(line[value]) for line in lines if "seconds" not in str(line.values())}


def weights(run: Path) -> torch.Tensor:
    (path,) = [path for name in ("prompted_vision.pt", "model.pt") for path in run.rglob(name)]
    state = torch.load(path, weights_only=True)
    state = state.get("weights", state)
    return torch.cat([state[name].double().flatten() for name in sorted(state) if state[name].is_floating_point()])


@pytest.mark.parametrize("name", RUNS)
def test_losses_metrics_and_weights_are_those_of_one_process(folders: Path, name: str) -> None:
    one, two = (figures(folders / kind / name) for kind in ("one", "two"))
    assert one.keys() == two.keys() and sum("train_loss" in key for key in one) == 4
    apart = {k: (one[k], two[k]) for k in one if not math.isclose(one[k], two[k], rel_tol=1e-4, abs_tol=1e-5)}
    assert not apart, apart
    one_weights, two_weights = (weights(folders / kind / name) for kind in ("one", "two"))
    distance = (one_weights - two_weights).abs()
    assert distance.max() < 1e-5, "four steps of Adam at 1e-4 move a weight by 4e-4; two processes differ by 2e-7"


@pytest.mark.parametrize("name", RUNS)
def test_one_process_writes(folders: Path, name: str) -> None:
    first, second = (json.loads((folders / f"{name}-{rank}.json").read_text())[0] for rank in (0, 1))
    assert any(path.endswith("metrics.csv") for path in first)
    assert second == []
    one, two = (
        {str(p.relative_to(folders / kind)) for p in (folders / kind / name).rglob("*") if "events" not in p.name}
        for kind in ("one", "two")
    )
    assert one == two


def test_each_process_makes_the_prompt_maps_of_its_own_slices(folders: Path) -> None:
    for rank in (0, 1):
        asked = json.loads((folders / f"cps4-{rank}.json").read_text())[1]
        assert asked == [[2, "cpu"]] * 4, "two slices of four, in each of four steps"
