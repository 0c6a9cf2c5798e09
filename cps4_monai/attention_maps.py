"""How attention logits become attention maps A: the one place that knows, for losses, prompt maps and pictures."""

from __future__ import annotations

from torch import Tensor

ACTIVATIONS = ("sigmoid", "softmax")


def activate(logits: Tensor, activation: str) -> Tensor:
    """A in [0, 1] of attention logits (B, K, h, w) of the K annotated classes.

    Args:
        logits: of the classes that take part; an unannotated one must be left out or hold a very low value.
        activation: "sigmoid", each class by itself; "softmax" over the classes (row 1 of the settings).

    Raises:
        ValueError: another activation.
    """
    check_activation(activation)
    return logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=1)


def check_activation(activation: str) -> None:
    """Refuses an unknown activation.

    Raises:
        ValueError: as said.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; expected one of {list(ACTIVATIONS)}")
