"""The tests' own watch on waits for the device: it sees each kind of them, and nothing else."""

from __future__ import annotations

import pytest
import torch
from host_reads import HostReads

X, MASK = torch.arange(6.0), torch.tensor([True, False] * 3)
WAITS = {
    "item": lambda: X[0].item(),
    "if": lambda: bool(X[0] > 1),
    "mask": lambda: X[MASK],
    "set by mask": lambda: X.clone().__setitem__(MASK, 0.0),
    "nonzero": lambda: MASK.nonzero(),
    "unique": lambda: X.unique(),
    "unique rows": lambda: X.view(3, 2).unique(dim=0),
    "bincount": lambda: X.long().bincount(),
    "repeats": lambda: X.repeat_interleave(X.long()),
    "equal": lambda: torch.equal(X, X),
    "cpu": lambda: X.cpu(),
    "list": lambda: X.tolist(),
    "array": lambda: X.numpy(),
}
GOES_ON = {
    "index": lambda: X[torch.tensor([1, 2])],
    "where": lambda: torch.where(MASK, X, 0.0).sum(),
    "filled": lambda: X.masked_fill(MASK, 0.0).softmax(0),
    "repeats": lambda: X.repeat_interleave(2),
    "slices": lambda: X[2:4].argmax(),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_seen(name):
    with HostReads() as host:
        WAITS[name]()
    assert host.reads


@pytest.mark.parametrize("name", GOES_ON)
def test_what_the_device_does_alone_is_none(name):
    with HostReads() as host:
        GOES_ON[name]()
    assert not host.reads
