"""Progress bar, pictures and the record of a run."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from ignite.engine import Events

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.handlers import PictureHandler, ProgressHandler, ResumedMLFlowHandler, RunRecord
from cps4_monai.handlers.progress import scalars_of
from cps4_monai.handlers.run_record import versions
from cps4_monai.palette import structure_colours
from cps4_monai.plan import Plan, PlanError, read_plan
from cps4_monai.plan import file as plan_file


class Writer:
    """Records what would go to TensorBoard."""

    def __init__(self):
        self.images = []

    def add_image(self, tag, image, step):
        self.images.append((tag, image, step))

    def close(self):
        self.flushed = True


def test_bar_covers_the_whole_run_and_reads_losses_every_few_iterations(tmp_path, make_run, monkeypatch, capsys):
    read = []
    monkeypatch.setattr("cps4_monai.handlers.progress.scalars_of", lambda o: read.append(o) or {"loss_text": 0.25})
    bar = ProgressHandler(every=5, disable=False)
    make_run(tmp_path, handlers=[bar]).run()
    assert len(read) == 2 + 4  # iterations 5 and 10, and the four ends of an epoch
    shown = capsys.readouterr().err
    assert "12/12" in shown and "text=0.250" in shown and "epoch=4/4" in shown and "it/s" in shown
    assert bar.bar is None


def test_disabled_bar_reads_nothing(tmp_path, make_run, monkeypatch):
    monkeypatch.setattr("cps4_monai.handlers.progress.scalars_of", lambda o: pytest.fail("read"))
    make_run(tmp_path, epochs=1, handlers=[ProgressHandler(every=1, disable=True)]).run()


def test_bar_of_a_resumed_run_starts_where_it_goes_on(tmp_path, make_run, capsys):
    make_run(tmp_path, epochs=2, scores=[0.1, 0.2]).run()
    make_run(tmp_path, epochs=4, handlers=[ProgressHandler(disable=False)]).run()
    shown = capsys.readouterr().err
    assert " 6/12 " in shown and " 0/12 " not in shown


def test_scalars_of_dicts_lists_and_nothing():
    output = {"loss": torch.tensor(0.5), "part": torch.tensor([0.25]), "n": 2, "pred": torch.zeros(2, 2), "name": "x"}
    expected = {"loss": 0.5, "part": 0.25, "n": 2.0}
    assert scalars_of(output) == scalars_of([output]) == expected
    assert scalars_of(None) == scalars_of([]) == scalars_of({"pred": torch.zeros(2)}) == {}


def test_pictures_of_both_halves_and_chosen_prompts(tmp_path, make_run):
    writer = Writer()
    run = make_run(tmp_path, epochs=2, handlers=[])

    @run.trainer.on("GET_BATCH_COMPLETED")
    def attention(engine):
        engine.state.batch["unlabeled"]["attention_logits"] = torch.zeros(2, 3, 2, 2)

    handler = PictureHandler(prompts=["L5", "S"], interval=2, summary_writer=writer)
    handler.attach(run.trainer)
    run.run()
    tags = {tag: image for tag, image, step in writer.images if step == 2}
    assert set(tags) == {"slices/labeled", "slices/unlabeled", "attention/unlabeled/L5", "attention/unlabeled/S"}
    assert tags["slices/labeled"].shape == (3, 8, 4 * 8)  # image, label, student, teacher
    assert tags["attention/unlabeled/L5"].shape == (1, 8, 2 * 8)
    assert torch.all(tags["attention/unlabeled/L5"][..., 8:] == 0.5)
    assert all(image.min() >= 0 and image.max() <= 1 for image in tags.values())
    assert {step for _, _, step in writer.images} == {2} and writer.flushed


def test_pictures_leave_the_run_as_it_was(tmp_path, make_run):
    with_pictures = make_run(tmp_path / "a", handlers=[PictureHandler(summary_writer=Writer())]).run()
    without = make_run(tmp_path / "b").run()
    assert with_pictures.bits()[1] == without.bits()[1]
    assert all(torch.equal(v, without.bits()[0][k]) for k, v in with_pictures.bits()[0].items())


def test_pictures_have_the_colours_of_the_reports():
    assert torch.equal(
        PictureHandler(summary_writer=Writer()).colours * 255, torch.tensor(structure_colours(MRSPINESEG))
    )


def test_record_holds_settings_versions_and_log_and_one_entry_a_start(tmp_path, make_run, caplog):
    caplog.set_level(logging.INFO)
    for epochs in (1, 2):
        make_run(tmp_path, epochs=epochs, handlers=[RunRecord(tmp_path, {"lr": 1e-4, "size": [8, 8]})]).run()
    starts = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert [start["iterations"] for start in starts] == [3, 6]
    assert starts[0]["settings"] == {"lr": 1e-4, "size": [8, 8]}
    assert starts[0]["versions"]["torch"] == torch.__version__ and starts[0]["device"] == "cpu"
    log = (tmp_path / "run.log").read_text()
    assert "3 iterations in total" in log and "resumed from" in log and "best so far" in log
    assert not [h for h in logging.getLogger().handlers if getattr(h, "baseFilename", "").startswith(str(tmp_path))]


def test_the_plan_of_a_folder_is_read_once_a_start_and_another_one_is_refused_before_it_trains(
    tmp_path, make_run, monkeypatch
):
    plan, read = Plan(MRSPINESEG, (), 1.5, (64, 32)), []
    monkeypatch.setattr(plan_file, "read_plan", lambda path: read.append(path) or read_plan(path))
    for epochs in (1, 2):
        make_run(tmp_path, epochs=epochs, handlers=[RunRecord(tmp_path, plan=plan)]).run()
    assert len(read) == 1, "of the second start, which finds weights"
    other = RunRecord(tmp_path, plan=Plan(MRSPINESEG, (), 2.0, (64, 32)))
    with pytest.raises(PlanError, match="holds weights of other settings"):
        make_run(tmp_path, epochs=3, handlers=[other]).run()
    assert read_plan(tmp_path / "plan.json").spacing_mm == 1.5


def test_versions_name_what_computes():
    assert {"cps4-monai", "python", "torch", "monai", "pytorch-ignite", "cuda"} <= set(versions())


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="every is 0"):
        ProgressHandler(every=0)
    with pytest.raises(ValueError, match="interval is 0"):
        PictureHandler(interval=0, summary_writer=Writer())


def test_the_log_of_a_run_that_failed_gets_nothing_of_the_next_one(tmp_path, make_run, caplog):
    """In a process that goes on, as a notebook's."""
    caplog.set_level(logging.INFO)

    def failing(engine) -> None:
        raise RuntimeError("in the middle")

    failed = make_run(tmp_path / "a", epochs=1, handlers=[RunRecord(tmp_path / "a")])
    failed.trainer.add_event_handler(Events.EPOCH_STARTED, failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        failed.run()
    make_run(tmp_path / "b", epochs=1, handlers=[RunRecord(tmp_path / "b")]).run()
    for folder in "ab":
        assert (tmp_path / folder / "run.log").read_text().count("run of 1 epochs") == 1


def test_a_run_that_goes_on_keeps_the_settings_that_its_first_start_tracked(tmp_path, make_run):
    """MLflow refuses to change a parameter; another precision on another machine is allowed."""
    mlflow = pytest.importorskip("mlflow")
    from monai.utils import path_to_sqlite_uri

    uri = path_to_sqlite_uri(str(tmp_path / "mlruns.db"))
    for precision in ("float32", "bfloat16"):
        own = {"tracking_uri": uri, "experiment_name": "x", "run_name": "stage2", "close_on_complete": False}
        handler = ResumedMLFlowHandler(**own, iteration_log=False, epoch_log=False, experiment_param={"amp": precision})
        handler.start(make_run(tmp_path / precision).trainer)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs(client.get_experiment_by_name("x").experiment_id)
    assert run.data.params["amp"] == "float32"
