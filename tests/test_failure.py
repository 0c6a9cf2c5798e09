"""What a person is told when something fails."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.failure import for_terminal, one_line, write_traceback
from cps4_monai.workflow import CPS4Workflow


def raised(*chain: BaseException) -> BaseException:
    """The first, raised from the second, and so on."""
    for outer, inner in pairwise(chain):
        outer.__cause__ = inner
    return chain[0]


def test_the_outermost_error_of_ours_behind_the_parsers_is_told() -> None:
    error = raised(RuntimeError("Failed to evaluate x"), ValueError("no labeled\nsubject"), ValueError("line 1"))
    assert one_line(error) == "no labeled subject"


def test_an_unexpected_error_is_told_with_its_kind_its_component_and_its_traceback(tmp_path: Path) -> None:
    error = raised(
        RuntimeError("Failed to instantiate component 'cps4_monai.networks.ResUNet' with args"), KeyError("features")
    )
    assert one_line(error) == "KeyError: 'features', in 'cps4_monai.networks.ResUNet'"
    log = write_traceback(error, tmp_path / "run")
    assert log == tmp_path / "run" / "error.log" and "KeyError: 'features'" in log.read_text()
    assert for_terminal(error, tmp_path / "run").endswith(f"; the traceback is in {log}")


def test_a_class_that_is_not_found_is_told_with_what_to_do() -> None:
    """MONAI names the path and nothing else, as for a method's module that lies outside of the package."""
    error = raised(RuntimeError("Failed"), ModuleNotFoundError("Cannot locate class or function path: 'my.Method'."))
    assert one_line(error).startswith("my.Method: no such class or function, as '_target_' of a config or an overlay")
    assert "put the folder of its module into PYTHONPATH" in one_line(error)


def test_what_python_says_of_a_value_is_told_with_its_kind_and_component() -> None:
    caught = []
    for fail in (lambda: float("wide"), lambda: len(3), lambda: MRSPINESEG.code_of("L9")):  # type: ignore[arg-type]
        try:
            fail()
        except (ValueError, TypeError) as error:
            built = RuntimeError("Failed to instantiate component 'torch.optim.Adam' with keywords: lr,betas")
            caught.append(one_line(raised(built, error)))
    assert caught[0] == "ValueError: could not convert string to float: 'wide', in 'torch.optim.Adam'"
    assert caught[1] == "TypeError: object of type 'int' has no len(), in 'torch.optim.Adam'"
    assert caught[2].startswith("no structure is called 'L9'")


def test_a_folder_that_cannot_be_written_takes_no_message_along(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert write_traceback(ValueError("x"), tmp_path / "file" / "run").name == "error.log"


def test_what_is_refused_before_there_is_a_run_leaves_no_folder_behind(tmp_path):
    try:
        raise ValueError("datalist: no such file; expected one")
    except ValueError as error:
        assert write_traceback(error, tmp_path / "run").is_file() and not (tmp_path / "run").exists()
        (tmp_path / "run").mkdir()
        assert write_traceback(error, tmp_path / "run") == tmp_path / "run" / "error.log"


def test_a_component_that_cannot_be_built_ends_with_its_cause(tiny_data: Path, tmp_path: Path) -> None:
    given = {"datalist": str(tiny_data / "datalist.json"), "dataset_dir": str(tiny_data), "device_name": "cpu"}
    workflow = CPS4Workflow(
        overlays="mean_teacher",
        run_id="training_stage2",
        output_dir=str(tmp_path),
        min_free_gib=0.0,
        ema_decay=3.0,
        **given,
    )
    workflow.initialize()
    with pytest.raises(ValueError, match=r"^ema_decay is 3\.0"):
        workflow.run()
    assert "Traceback" in (tmp_path / "error.log").read_text()


def test_without_a_path_a_run_goes_to_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert CPS4Workflow().parser.get_parsed_content("output_dir") == f"{tmp_path}/runs/cps4"
    assert CPS4Workflow(output_dir="there").parser.get_parsed_content("output_dir") == "there"
    root = CPS4Workflow().parser["bundle_root"]
    given = CPS4Workflow(bundle_root=root)
    assert given.parser.get_parsed_content("output_dir") == f"{root}/runs/cps4"


def test_none_is_unset_by_an_expression() -> None:
    """MONAI drops ``--ID None`` before any workflow sees it; ``--ID '$None'`` reaches it."""
    workflow = CPS4Workflow(**{"train#provider": "$None"})
    assert workflow.parser.get_parsed_content("train#provider") is None


def test_each_process_of_torchrun_tells_in_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the others say of a lost connection must not hide the cause."""
    for rank, message in (("1", "the cause"), ("0", "connection closed")):
        monkeypatch.setenv("RANK", rank)
        write_traceback(RuntimeError(message), tmp_path)
    assert "the cause" in (tmp_path / "error_rank1.log").read_text()
    assert "the cause" not in (tmp_path / "error.log").read_text()
