"""Studies on a phantom: made once, whole, and never taken for another one."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cps4_monai.bench import start
from cps4_monai.bench.folders import DONE, write_json
from cps4_monai.bench.matrix import Data
from cps4_monai.bench.plan import StudyPlan
from cps4_monai.bench.start import make_phantom, start_study
from cps4_monai.bench.study import Study, StudyError, parse_study

PHANTOM = {"subjects": 5, "size": 16, "slices": 1, "labeled": 1, "val": 1, "test": 1}


def study(**phantom: Any) -> Study:
    matrix = [{"methods": ["supervised"], "shares": [100]}]
    return parse_study({"name": "made", "matrix": matrix, "phantom": {**PHANTOM, **phantom}}, "made.yaml")


@pytest.fixture
def planned(write_study, tmp_path: Path):
    def plan(name: str, **phantom: Any) -> StudyPlan:
        file = write_study(["supervised"], ["all"], phantom={**PHANTOM, **phantom})
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "name": name}))
        return start_study(file, tmp_path / "runs", device="cpu")

    return plan


def test_results_on_one_phantom_are_not_those_on_another_of_the_same_datalist(planned) -> None:
    (done,) = planned("one").jobs
    done.prepare()
    write_json(done.folder / DONE, {"seconds": dict.fromkeys(done.left, 1.0)})
    assert [job.folder for job in planned("again").jobs] == [done.folder] and not planned("again").open_jobs()
    for name, other in {"two": {"size": 32}, "three": {"slices": 2}, "four": {"variation": 0.5}}.items():
        (job,) = planned(name, **other).open_jobs()
        assert job.folder != done.folder, name
    (folder,) = {job.folder for name in ("five", "six") for job in planned(name, size=32, variation=1.0).jobs}
    assert folder == planned("two", size=32).jobs[0].folder, "the default, said or not"


def test_a_datalist_counts_by_its_content_alone(tiny_data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "datalist.json"
    moved.write_bytes((tiny_data / "datalist.json").read_bytes())
    digests = {Data.read(file, tiny_data, {}).digest for file in (moved, tiny_data / "datalist.json")}
    assert digests == {Data.read(moved, tiny_data).digest}


def test_a_study_goes_on_with_the_phantom_that_it_was_killed_over(tmp_path: Path, monkeypatch) -> None:
    write = start.write_phantom_dataset

    def killed(out: Path, **arguments: Any) -> None:
        def cut(name: str) -> None:
            if name == "sub-002":
                raise KeyboardInterrupt

        write(out, on_subject=cut, **arguments)

    monkeypatch.setattr(start, "write_phantom_dataset", killed)
    monkeypatch.setattr(start, "inspect", SimpleNamespace(signature=lambda _: inspect.signature(write)))
    with pytest.raises(KeyboardInterrupt):
        make_phantom(study(), tmp_path)
    monkeypatch.undo()
    folder = make_phantom(study(), tmp_path)
    assert len(list(folder.glob("*_T2w.nii.gz"))) == 5 and (folder / "datalist.json").is_file()
    with pytest.raises(StudyError, match=r"holds a phantom made with .*'size': 16.*, the study says .*'size': 32"):
        make_phantom(study(size=32), tmp_path)


def test_two_commands_started_together_make_the_phantom_once(tmp_path: Path, monkeypatch) -> None:
    write, made, both = start.write_phantom_dataset, [], threading.Event()

    def slow(out: Path, **arguments: Any) -> None:
        made.append(out)
        both.wait(0.5)  # as long as the other one would need to begin
        write(out, **arguments)

    monkeypatch.setattr(start, "write_phantom_dataset", slow)
    monkeypatch.setattr(start, "inspect", SimpleNamespace(signature=lambda _: inspect.signature(write)))
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(make_phantom(study(), tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and folders == [tmp_path / "phantom-made"] * 2


@pytest.mark.parametrize("phantom", [{"on_subject": "x"}, {"out": "x"}, {"sise": 3}])
def test_arguments_that_no_phantom_has_are_named(tmp_path: Path, phantom: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=rf"'phantom' has .*{next(iter(phantom))}"):
        make_phantom(study(**phantom), tmp_path)
