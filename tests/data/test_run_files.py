"""Tables and pages of an output folder: ours stay ours whatever a kill leaves behind, and nothing else is replaced."""

from __future__ import annotations

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
