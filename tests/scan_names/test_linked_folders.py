"""Links to folders, as data sets of DataLad and archives of clusters consist of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cps4_monai.inference.folder_search import search_folder
from cps4_monai.scan_names import find_nifti


@pytest.fixture()
def linked(tmp_path: Path) -> Path:
    """A folder with a patient, a link to one elsewhere, and links in circles."""
    for place in ("data/p1", "archive/p2", "out"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "t2.nii").write_bytes(b"")
    links = {"data/p2": "archive/p2", "data/p3": "data/p1", "archive/p2/up": "data", "data/result": "out"}
    for link, target in links.items():
        os.symlink(tmp_path / target, tmp_path / link, target_is_directory=True)
    return tmp_path


def test_linked_folders_are_searched_once_and_no_circle_is_followed(linked: Path) -> None:
    search = search_folder(linked / "data", leave_out=linked / "out")
    assert search.scans == [linked / "data/p1/t2.nii", linked / "data/p2/t2.nii"]
    assert [path for path, _ in search.skipped] == [linked / "data/p3", linked / "data/p2/up"]
    assert all("searched elsewhere" in reason for _, reason in search.skipped)


def test_nifti_files_in_linked_folders_are_found_once(linked: Path) -> None:
    found = [path.relative_to(linked / "data").as_posix() for path in find_nifti(linked / "data")]
    assert found == ["p1/t2.nii", "p2/t2.nii", "result/t2.nii"]
