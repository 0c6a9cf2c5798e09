"""Seeds: each epoch's draws depend on seed and epoch only."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cps4_monai.handlers import EpochSeed


def draws(seed, epoch, rank=0):
    EpochSeed(seed)(SimpleNamespace(state=SimpleNamespace(epoch=epoch, rank=rank)))
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_same_seed_and_epoch_give_the_same_draws_and_others_do_not():
    assert draws(1, 2) == draws(1, 2)
    for other in (draws(1, 3), draws(2, 2), draws(1, 2, rank=1)):
        assert all(a != b for a, b in zip(draws(1, 2), other, strict=True))


def test_loader_is_told_the_epoch_before_it_is_asked_for_batches(tmp_path, make_run):
    run = make_run(tmp_path, epochs=3).run()
    assert run.trainer.data_loader.epochs == [1, 2, 3]


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed is -1"):
        EpochSeed(-1)
