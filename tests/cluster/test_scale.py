"""Hundreds of scans: command and scheduler hold no more of them at the end than at the beginning."""

from __future__ import annotations

import os

import psutil
import pytest

from cps4_monai import segment_scans

SCANS = 600
AFTER = 200  # scans until whatever is made once has been made
FLAT_MB = 25  # 400 outcomes with their records would be some 40


@pytest.mark.cluster
def test_memory_of_command_and_scheduler_is_flat(cluster, bundle_dir, make_scan, tmp_path) -> None:
    first = make_scan(slices=3).save(tmp_path / "in" / "s0000.nii")
    for number in range(1, SCANS):
        os.link(first, tmp_path / "in" / f"s{number:04d}.nii")
    watched = (psutil.Process(), psutil.Process(cluster.started[0].pid))
    seen: dict[int, list[float]] = {}

    def look(outcome, done, total) -> None:
        if done in (AFTER, SCANS):
            seen[done] = [one.memory_info().rss / 1e6 for one in watched]

    given = {"weights": bundle_dir, "device": "cpu", "qc": False, "scheduler": cluster.address, "on_scan": look}
    result = segment_scans(tmp_path / "in", tmp_path / "out", **given)
    assert len(result.segmented) == SCANS
    grown = [after - before for before, after in zip(seen[AFTER], seen[SCANS], strict=True)]
    assert max(grown) < FLAT_MB, f"command and scheduler grew by {grown} MB over {SCANS - AFTER} scans"
