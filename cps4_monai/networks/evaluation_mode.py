"""A network in evaluation mode for a while, and one that is looked at in the middle of a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
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


@contextmanager
def aside(network: nn.Module) -> Iterator[nn.Module]:
    """The network in evaluation mode and without gradient, within a step that trains it.

    Autocast forgets its casts of the weights afterwards: torch 2.8 keeps those made without gradient, and gives them to
    the passes of the step that follow, which leaves the weights without one (pytorch issue 158232).

    Args:
        network: that is trained.

    Yields:
        The network.
    """
    with torch.no_grad(), evaluation_mode(network):
        yield network
    torch.clear_autocast_cache()
