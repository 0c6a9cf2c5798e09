"""Tables and pages of an output folder: ours stay ours whatever a kill leaves behind, and nothing else is replaced."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cps4_monai.data import run_files
from cps4_monai.data.label_ownership import ForeignFileError
from cps4_monai.data.run_files import RunFiles


def test_files_stay_ours_through_two_kills_between_manifest_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, write = RunFiles(tmp_path), run_files.write_atomically
    files.write({"scans.csv": "first", "report.html": "page"})

    def dying(path: Path, content: bytes) -> None:
        if path.name == "scans.csv":
            raise KeyboardInterrupt
        write(path, content)

    for content in ("second", "third"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(run_files, "write_atomically", dying)
            files.write({"scans.csv": content})
    assert (tmp_path / "scans.csv").read_text() == "first"
    files.write({"scans.csv": "fourth"})
    assert (tmp_path / "scans.csv").read_text() == "fourth"
    files.check(["scans.csv", "report.html"])


def test_a_file_that_was_replaced_is_ours_no_more(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    for content in ("first", "second", "third"):
        files.write({"scans.csv": content})
    for content in ("first", "mine"):
        (tmp_path / "scans.csv").write_text(content)
        with pytest.raises(ForeignFileError, match=r"scans\.csv: found a file that this command did not write"):
            files.write({"scans.csv": "fourth"})
        assert (tmp_path / "scans.csv").read_text() == content


def _write_often(folder: Path, own: str) -> None:
    for number in range(40):
        RunFiles(folder).write({"scans.csv": f"{own} {number}", f"{own}.csv": str(number)})


def test_commands_that_share_a_folder_leave_it_writable(tmp_path: Path) -> None:
    """Each writes the manifest for its own files: without a lock one's was lost, and the folder shut for good."""
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(_write_often, tmp_path, name) for name in "abc"]:
            job.result()
    files = RunFiles(tmp_path)
    files.check(["scans.csv", "a.csv", "b.csv", "c.csv"])
    assert (tmp_path / "scans.csv").read_text().split()[1] == "39"
    assert not list(tmp_path.glob(".partial-*"))


def test_a_command_that_writes_first_while_another_looks_is_not_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new folder has no lock yet: the other command's manifest appears between two looks at it."""
    files, manifest = RunFiles(tmp_path), RunFiles._manifest

    def overtaken(self: RunFiles) -> object:
        found = manifest(self)
        monkeypatch.setattr(RunFiles, "_manifest", manifest)
        RunFiles(tmp_path).write({"scans.csv": "other"})
        return found

    monkeypatch.setattr(RunFiles, "_manifest", overtaken)
    files.write({"scans.csv": "own"})
    assert (tmp_path / "scans.csv").read_text() == "own"
    files.check(["scans.csv"])
