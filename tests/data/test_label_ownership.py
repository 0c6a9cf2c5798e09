"""The JSON beside a label map: read in one way, and believed only as far as it is ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cps4_monai.data.label_ownership import json_beside, record_beside
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
