"""Jobs as processes: order, failures, interruption; and the bundle's own runs behind them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock
from monai.bundle import ConfigParser

from cps4_monai.bench import runner as runner_module
from cps4_monai.bench import task as task_module
from cps4_monai.bench.folders import DONE, SETTINGS, write_json
from cps4_monai.bench.matrix import Data
from cps4_monai.bench.plan import Job, make_plan
from cps4_monai.bench.runner import Runner, job_command, job_environment
from cps4_monai.bench.study import load_study
from cps4_monai.bench.task import main, run_task
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.bench import bench
from cps4_monai.file_hash import file_sha256
from cps4_monai.handlers import ResumeHandler


def job(folder: Path, name: str, after: Job | None = None, behaviour: str = "work") -> Job:
    kind = "cell" if after else "stage1"
    task = {"kind": kind, "settings": {}, "behaviour": behaviour}
    return Job(name, kind, folder / name, {"name": name}, task, (), after, "m", 1)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that notes when it ran in ``order`` and does what the task says, in place of the training."""
    script = tmp_path / "stand_in.py"
    script.write_text(
        "import json, os, sys, time, pathlib\n"
        "folder = pathlib.Path(sys.argv[1]); behaviour = json.loads((folder / 'task.json').read_text())['behaviour']\n"
        "open(folder.parent / 'order', 'a').write(folder.name + '\\n')\n"
        "if behaviour == 'fail': sys.exit('Error: no labeled subject')\n"
        "if behaviour == 'crash': os.kill(os.getpid(), 9)\n"
        "if behaviour == 'hang': time.sleep(3600)\n"
        "(folder / 'done.json').write_text(json.dumps({'seconds': {'training': 1.0}}))\n"
    )
    monkeypatch.setattr(runner_module, "job_command", lambda job: [sys.executable, str(script), str(job.folder)])
    return tmp_path


def test_a_failure_harms_its_own_dependents_only(stand_in: Path) -> None:
    broken, whole = job(stand_in, "broken", behaviour="fail"), job(stand_in, "whole")
    jobs = [broken, job(stand_in, "x", broken), whole, job(stand_in, "y", whole), job(stand_in, "z", whole, "crash")]
    results = {result.job.name: result.error for result in Runner(jobs, 2).run()}
    assert results["broken"] == "no labeled subject" and "its stage 1 failed" in results["x"]
    assert results["whole"] == results["y"] == "" and "ended by signal 9" in results["z"]
    order = (stand_in / "order").read_text().split()
    assert "x" not in order and order.index("whole") < order.index("y")


def test_a_job_that_cannot_be_prepared_fails_alone(stand_in: Path) -> None:
    taken, no_folder, whole = job(stand_in, "taken"), job(stand_in, "no_folder"), job(stand_in, "whole")
    write_json(taken.folder / SETTINGS, {"name": "another training"})
    no_folder.folder.write_text("a file")
    results = {result.job.name: result.error for result in Runner([whole, taken, no_folder], 2).run()}
    assert results["whole"] == "" and (stand_in / "order").read_text().split() == ["whole"]
    assert "name is 'another training', planned 'taken'" in results["taken"]
    assert str(no_folder.folder) in results["no_folder"]
    assert json.loads((taken.folder / SETTINGS).read_text()) == {"name": "another training"}


def test_no_cell_begins_on_another_stage_1_that_is_done_where_its_own_was_to_be(stand_in: Path) -> None:
    taken = job(stand_in, "taken")
    write_json(taken.folder / SETTINGS, {"name": "another training"})
    write_json(taken.folder / DONE, {"seconds": {"training": 1.0}})
    results = {result.job.name: result.error for result in Runner([taken, job(stand_in, "x", taken)], 1).run()}
    assert "planned 'taken'" in results["taken"] and f"{taken.folder}: " in results["x"]
    assert not (stand_in / "order").exists()


def test_an_interrupt_ends_the_processes(stand_in: Path) -> None:
    def interrupt(running) -> None:
        if (stand_in / "order").is_file():
            raise KeyboardInterrupt

    runner = Runner([job(stand_in, "long", behaviour="hang")], 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert runner.running[0].process.poll() == -signal.SIGTERM
    with pytest.raises(ValueError, match="0 jobs at a time"):
        Runner([], 0)


def test_sigterm_ends_the_processes_too(stand_in: Path) -> None:
    def terminate(running) -> None:
        if (stand_in / "order").is_file():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    runner = Runner([job(stand_in, "long", behaviour="hang")], 4, terminate)
    assert runner.slots == 1, "one job has all threads"
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert runner.running[0].process.poll() == -signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before


def test_a_second_process_of_a_job_waits_for_the_first_and_finds_it_done(tmp_path: Path, monkeypatch) -> None:
    write_json(tmp_path / "task.json", {"kind": "cell", "run_id": "training_stage2"})
    waits, trained = threading.Event(), []
    monkeypatch.setattr(task_module.logger, "warning", lambda *told: waits.set())
    monkeypatch.setattr(task_module, "_workflow", lambda *told: trained.append(told))
    second = threading.Thread(target=run_task, args=(tmp_path, []), daemon=True)
    with FileLock(tmp_path / ".lock"):
        second.start()
        assert waits.wait(600) and second.is_alive()
        write_json(tmp_path / DONE, {"seconds": {"training": 1.0}})
    second.join(600)
    assert not second.is_alive() and not trained


def test_a_process_passes_over_nothing_where_the_settings_became_others_while_it_waited(tmp_path, monkeypatch) -> None:
    waits, errors = threading.Event(), []
    monkeypatch.setattr(task_module.logger, "warning", lambda *told: waits.set())
    one = job(tmp_path, "one")
    one.prepare()

    def work() -> None:
        try:
            run_task(one.folder, [])
        except ValueError as error:
            errors.append(str(error))

    process = threading.Thread(target=work, daemon=True)
    with FileLock(one.folder / ".lock"):
        process.start()
        assert waits.wait(600)
        write_json(one.folder / SETTINGS, {"name": "another training"})
        write_json(one.folder / DONE, {"seconds": {"training": 1.0}})
    process.join(600)
    (error,) = errors
    assert f"{one.folder / SETTINGS}: " in error and "start the same command again" in error
    write_json(one.folder / SETTINGS, one.settings)
    run_task(one.folder, [])
    (one.folder / SETTINGS).unlink()
    write_json(one.folder / "task.json", one.task)  # as versions before wrote it
    run_task(one.folder, [])


def test_a_process_by_hand_makes_no_folder_of_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none/task.json"):
        run_task(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_the_checkpoint_of_a_training_that_was_killed_when_it_was_done_is_deleted(tmp_path: Path) -> None:
    one = job(tmp_path, "one")
    one.prepare()
    write_json(one.folder / DONE, {"seconds": {"training": 1.0}})
    checkpoint = one.folder / "stage1" / "resume.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    run_task(one.folder, [])
    assert not checkpoint.exists()


def test_threads_are_divided_among_the_jobs_unless_the_user_says_otherwise(monkeypatch) -> None:
    monkeypatch.setattr(runner_module, "whole_cores", lambda: 8)
    for name in runner_module.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert job_environment(2)["OMP_NUM_THREADS"] == "4" and job_environment(20)["MKL_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert {job_environment(2)[name] for name in runner_module.THREAD_VARIABLES} == {"3"}


def test_a_study_runs_the_bundles_own_stages_and_evaluation_and_is_then_done(tiny_data, write_study, tmp_path) -> None:
    study = load_study(
        write_study(["cps4"], [25], evaluate=["validation", "test"], rotate_labeled={25: True}, seeds=[1])
    )
    plan = make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu")
    for one in plan.open_jobs():
        one.prepare()
        run_task(one.folder, list(one.sections))
    assert plan.open_jobs() == []
    cell = plan.cells["cps4-25pct-seed1"]
    stage1 = cell.after
    assert stage1 is not None and (stage1.folder / "stage1" / "prompted_vision.pt").is_file()
    assert "ceiling" in (stage1.folder / "test" / "prompt_map.csv").read_text()
    config = json.loads((cell.folder / "config.json").read_text())
    assert json.loads((cell.folder / "planned.json").read_text())["features"] == [4, 8]
    assert config["features"] == [4, 8] and config["stage1_checkpoint"].startswith(str(stage1.folder))
    run = json.loads((cell.folder / "stage2" / "run.json").read_text())["starts"][0]
    assert sorted(run["settings"]["labeled_subjects"]) == sorted(cell.task["settings"]["labeled_subjects"])
    for section in ("validation", "test"):
        assert {"cases.csv", "structures.csv"} <= {p.name for p in (cell.folder / section).iterdir()}
    assert not list(cell.folder.rglob("resume.pt")) and (cell.folder / "stage2" / "model.pt").is_file()
    done = json.loads((cell.folder / DONE).read_text())
    assert set(done["seconds"]) == {"training", "validation", "test"} and done["versions"]["torch"]
    of_stage1 = file_sha256(stage1.folder / "stage1" / "prompted_vision.pt")
    assert done["stage1_sha256"] == of_stage1 == json.loads((stage1.folder / DONE).read_text())["stage1_sha256"]

    again = make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu")
    assert again.open_jobs() == [] and again.cells["cps4-25pct-seed1"].folder == cell.folder

    write_json(cell.folder / DONE, {"seconds": {"training": 1.0, "test": 1.0}})
    before = (cell.folder / "stage2" / "model.pt").stat().st_mtime_ns
    (left,) = again.open_jobs()
    assert left.left == ("validation",)
    run_task(left.folder, list(left.sections))
    assert not again.open_jobs() and (cell.folder / "stage2" / "model.pt").stat().st_mtime_ns == before


def test_a_killed_cell_goes_on_at_its_last_epoch(tiny_data, write_study, tmp_path, monkeypatch) -> None:
    study = load_study(write_study(["supervised"], [25], {"max_epochs": 2}))
    (cell,) = make_plan(study, Data.read(tiny_data / "datalist.json"), tmp_path / "runs", "cpu").open_jobs()
    cell.prepare()
    save = ResumeHandler.save

    def save_and_die(handler: ResumeHandler, engine) -> None:
        save(handler, engine)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ResumeHandler, "save", save_and_die)
        run_task(cell.folder, list(cell.sections))
    assert cell.left == ("training", "validation") and cell.started
    done = json.loads((cell.folder / DONE).read_text())
    write_json(cell.folder / DONE, {**done, "since": done["since"] - 1000})  # as if the first start had taken so long
    run_task(cell.folder, list(cell.sections))
    assert 1000 < cell.seconds["training"] < 2000
    assert cell.left == () and "1 of 2 epochs done" in (cell.folder / "stage2" / "run.log").read_text()


def test_the_process_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    configs = find_bundle_root() / "configs"
    write_json(tmp_path / "planned.json", ConfigParser.load_config_files([str(configs / "train.json")]))
    task = {"kind": "cell", "run_id": "training_stage2"}
    places = {"datalist": str(tmp_path / "no.json"), "dataset_dir": str(tmp_path), "output_dir": str(tmp_path)}
    write_json(tmp_path / "task.json", {**task, "places": places})
    assert main([str(tmp_path)]) == 1 and "seconds" not in json.loads((tmp_path / DONE).read_text())
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "cannot be read as a datalist" in last


def test_the_process_of_a_job_can_be_run_by_hand(tmp_path: Path) -> None:
    command = job_command(job(tmp_path, "stage"))
    assert command[:3] == [sys.executable, "-m", "cps4_monai.bench.task"]
    assert importlib.util.find_spec(command[2]) is not None and command[3] == str(tmp_path / "stage")


def test_a_command_that_cannot_write_in_its_folder_says_so_in_one_line(tiny_data, write_study, tmp_path: Path) -> None:
    (tmp_path / "runs" / "tiny.study.json").mkdir(parents=True)
    command = ["run", str(write_study(["supervised"], [25])), "-o", str(tmp_path / "runs"), "--device", "cpu"]
    result = CliRunner().invoke(bench, [*command, "--datalist", str(tiny_data / "datalist.json"), "--jobs", "1"])
    last = result.output.strip().splitlines()[-1]
    assert result.exit_code == 1 and last.startswith("Error: ") and "tiny.study.json" in last


@pytest.mark.parametrize("again", [False, True], ids=["another study", "the study, edited and started again"])
def test_a_command_whose_cell_another_one_took_names_no_result_of_it(
    tiny_data, write_study, tmp_path: Path, monkeypatch, again: bool
) -> None:
    data = Data.read(tiny_data / "datalist.json")
    theirs = make_plan(load_study(write_study(["supervised"], [25], {"learning_rate": 0.5})), data, tmp_path / "runs")
    begin = Runner.run

    def run(runner: Runner):
        theirs.jobs[0].prepare()
        if again:
            theirs.write()
        return begin(runner)

    monkeypatch.setattr(Runner, "run", run)
    command = ["run", str(write_study(["supervised"], [25])), "-o", str(tmp_path / "runs"), "--device", "cpu"]
    result = CliRunner().invoke(bench, [*command, "--datalist", str(tiny_data / "datalist.json"), "--jobs", "1"])
    assert result.exit_code == 1 and "learning_rate is 0.5, planned" in result.output, result.output
    (entry,) = json.loads((tmp_path / "runs" / "tiny.study.json").read_text())["cells"]
    assert entry["folder"] == ("cells/supervised-25pct-seed0" if again else "cells/supervised-25pct-seed0-2")
    assert entry["settings"]["learning_rate"] == 0.5 if again else entry["settings"].get("learning_rate") != 0.5
