"""A network in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[nn.Module]:
    """The network in evaluation mode, afterwards in the mode that it was in, also after an error.

    MONAI's ``eval_mode`` does the same and switches gradients off; importing it loads torchvision.

    Args:
        network: whose dropout and batch norm are not to act as in training.

    Yields:
        The network.
    """
    was_training = network.training
    try:
        yield network.eval()
    finally:
        network.train(was_training)
