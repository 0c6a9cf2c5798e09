"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cps4_monai.atomic_file import write_atomically, write_folder_atomically


def test_processes_that_write_one_folder_at_a_time_all_succeed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from cps4_monai.atomic_file import write_folder_atomically as write\n"
        "for n in range(150): write(sys.argv[1], lambda folder: (folder / 'a').write_text(sys.argv[2]))"
    )
    place = tmp_path / "weights"
    running = [subprocess.Popen([sys.executable, "-c", script, str(place), who]) for who in "123"]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert (place / "a").read_text() in "123" and list(tmp_path.iterdir()) == [place]


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


def test_threads_write_one_shared_file_without_getting_in_each_others_way(tmp_path):
    path, together = tmp_path / "a.nii.gz", threading.Barrier(4)

    def write(number):
        def slowly(beside):
            assert beside.name.endswith("a.nii.gz"), "writers go by the suffix"
            beside.write_text(str(number) * 1000)
            together.wait(timeout=600)

        return write_atomically(path, slowly, shared=True)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(write, range(4))) == {path}
    assert path.read_text() in {str(number) * 1000 for number in range(4)} and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert write_atomically(tmp_path / "a", "whole").read_text() == "whole"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("writer", ["path.write_bytes(bytes(2**20))", "torch.save(torch.zeros(2**18), path)"])
def test_a_file_that_cannot_grow_is_named_with_the_systems_reason(tmp_path, writer):
    """As on a full disk, of which PyTorch says that "iostream" failed."""
    code = f"""
import resource, sys, torch
from cps4_monai.atomic_file import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
try:
    write_atomically(sys.argv[1], lambda path: {writer})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout and str(tmp_path / "a") in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_a_writer_raises_for_another_reason_stays(tmp_path):
    def write(path):
        path.write_bytes(b"half")
        raise RuntimeError("of the content")

    with pytest.raises(RuntimeError, match="of the content"):
        write_atomically(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


def test_rights_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    assert write_atomically(tmp_path / "a", b"").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    def fill(name):
        return lambda folder: (folder / "sub").mkdir() or (folder / "sub" / name).write_text(name)

    for name in ("first", "second"):
        place = write_folder_atomically(tmp_path / "new" / "weights", fill(name))
        assert [path.name for path in place.rglob("*") if path.is_file()] == [name]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights"]


def test_failure_while_filling_a_folder_keeps_the_old_one_and_leaves_nothing_behind(tmp_path):
    place = write_folder_atomically(tmp_path / "weights", lambda folder: (folder / "a").write_text("good"))

    def fail(folder):
        (folder / "a").write_text("ha")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_folder_atomically(place, fail)
    assert (place / "a").read_text() == "good" and list(tmp_path.iterdir()) == [place]


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    place = write_folder_atomically(tmp_path / "weights", lambda folder: (folder / "a").write_text("good"))
    rename = os.replace

    def only_aside(source, target):
        if ".partial-" not in os.path.basename(target) and "before" not in os.path.basename(source):
            raise OSError("in use")
        rename(source, target)

    monkeypatch.setattr(os, "replace", only_aside)
    with pytest.raises(OSError, match="in use"):
        write_folder_atomically(place, lambda folder: (folder / "a").write_text("new"))
    assert (place / "a").read_text() == "good" and list(tmp_path.iterdir()) == [place]
