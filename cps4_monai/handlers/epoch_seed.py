"""Makes every epoch's randomness a function of the seed and the epoch's number."""

from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow


class EpochSeed:
    """Reseeds Python's, NumPy's and torch's generators when an epoch starts, and tells the loader which epoch it is.

    A run that is resumed at an epoch therefore draws exactly what the uninterrupted one draws in it.

    Args:
        seed: of the run, at least 0; processes of one distributed run derive different streams from it by their rank.

    Raises:
        ValueError: a negative seed.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected a whole number of at least 0")
        self.seed = seed

    def attach(self, engine: Workflow) -> None:
        """Registers at EPOCH_STARTED, which comes before the engine asks the loader for its iterator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Reseeds; calls ``set_epoch`` of the engine's data loader where there is one."""
        epoch, rank = engine.state.epoch, getattr(engine.state, "rank", 0)
        for_python, for_numpy, for_torch = np.random.SeedSequence((self.seed, epoch, rank)).generate_state(3)
        random.seed(int(for_python))
        np.random.seed(int(for_numpy))
        torch.manual_seed(int(for_torch))
        set_epoch = getattr(getattr(engine, "data_loader", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
