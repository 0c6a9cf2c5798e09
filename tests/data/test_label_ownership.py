"""The JSON beside a label map: read in one way, and believed only as far as it is ours."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from cps4_monai.data.label_ownership import is_described, json_beside, record_beside, write_owned_label
from cps4_monai.data.label_review import reviewed_label
from cps4_monai.inference.scan_files import ScanFiles

OURS = {"GeneratedBy": [{"Name": "cps4_monai"}], "Sources": ["a.nii"]}


@pytest.mark.parametrize(
    ("content", "read", "ours"),
    [
        (json.dumps(OURS), OURS, OURS),
        ('{"Sources": ["a.nii"]}', {"Sources": ["a.nii"]}, {}),
        ('{"GeneratedBy": "cps4_monai"}', {"GeneratedBy": "cps4_monai"}, {}),
        ('{"GeneratedBy": []}', {"GeneratedBy": []}, {}),
        ('["cps4_monai"]', {}, {}),
        ('{"GeneratedBy"', {}, {}),
        (None, {}, {}),
    ],
)
def test_all_that_read_a_sidecar_read_the_same(content: str | None, read: dict, ours: dict, tmp_path: Path) -> None:
    files = ScanFiles.at(tmp_path, "a")
    if content is not None:
        files.sidecar.write_text(content)
    assert json_beside(files.label) == read
    assert record_beside(files.label) == files.record == reviewed_label(files.label)[1] == ours


def test_calls_that_write_one_label_map_at_a_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    together, failed = threading.Barrier(4), []

    def write(number: int) -> None:
        together.wait()
        for name in range(25):
            try:
                write_owned_label(tmp_path / f"{name}_dseg.nii.gz", b"the same labels", {"Seconds": number})
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(is_described(tmp_path / f"{name}_dseg.nii.gz") for name in range(25))
    assert not list(tmp_path.glob(".partial-*"))
