"""Files that are whole or not there."""

from __future__ import annotations

import os

import pytest

from cps4_monai.atomic_file import write_atomically


def test_failure_while_writing_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = write_atomically(tmp_path / "a.txt", lambda beside: beside.write_text("good"))

    def fail(beside):
        beside.write_text("ha")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, fail)
    assert path.read_text() == "good" and list(tmp_path.iterdir()) == [path]


def test_folders_are_made(tmp_path):
    assert write_atomically(tmp_path / "x" / "y" / "a.txt", lambda beside: beside.write_text("1")).read_text() == "1"


@pytest.mark.parametrize("content", ["grüße\n", "grüße\n".encode()])
def test_text_is_utf8_with_its_line_ends(tmp_path, content):
    assert write_atomically(tmp_path / "a.txt", content).read_bytes() == "grüße\n".encode()


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / ".partial-a.txt").write_text("half, and longer than the whole")
    write_atomically(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_shared_file_has_a_place_of_its_own_beside_it_for_each_process(tmp_path):
    seen = []
    write_atomically(tmp_path / "a.nii.gz", lambda beside: (seen.append(beside), beside.touch()), shared=True)
    assert str(os.getpid()) in seen[0].name and seen[0].name.endswith("a.nii.gz"), "writers go by the suffix"


def test_rights_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    assert write_atomically(tmp_path / "a", b"").stat().st_mode == (tmp_path / "plain").stat().st_mode
