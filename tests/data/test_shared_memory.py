from __future__ import annotations

import logging
import shutil
from types import SimpleNamespace

import pytest
import torch

from cps4_monai.data.shared_memory import bytes_of, workers_that_fit


@pytest.mark.parametrize(("free", "workers"), [(0, 0), (64 * 1024, 0), (3_500_000, 1), (6_500_000, 2), (10**9, 4)])
def test_as_many_workers_as_fit_with_three_batches_each(tmp_path, monkeypatch, caplog, free, workers):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with caplog.at_level(logging.WARNING):
        assert workers_that_fit(4, 1_000_000, tmp_path) == workers
    assert ("shm-size" in caplog.text) == (workers < 4)


def test_processes_of_one_machine_share_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=13_000_000))
    assert [workers_that_fit(4, 1_000_000, tmp_path, processes=n) for n in (1, 2, 4, 8)] == [4, 2, 1, 0]


def test_no_shared_memory_folder_or_no_workers_ask_for_nothing(tmp_path):
    assert workers_that_fit(4, 10**15, tmp_path / "none") == 4
    assert workers_that_fit(0, 10**15, tmp_path) == 0


def test_all_tensors_of_an_item_count():
    assert bytes_of({"a": torch.zeros(2, 3), "b": {"c": torch.zeros(4, dtype=torch.uint8)}, "name": "x"}) == 28
