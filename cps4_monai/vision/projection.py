"""How tokens of an encoder come into the common space: by one linear layer, or by two with BatchNorm between them."""

from __future__ import annotations

from torch import Tensor, nn

PROJECTIONS = ("linear", "mlp")
HIDDEN = 2048  # of the heads of MGCA (Wang et al., NeurIPS 2022)


class TwoLayerProjection(nn.Module):
    """Linear, BatchNorm over all tokens, ReLU, linear.

    Args:
        features: size of a token.
        out_features: size of the common space.
        bias: whether the last layer has one.
    """

    def __init__(self, features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, HIDDEN, bias=False),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, out_features, bias=bias),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., features) -> (..., out_features)."""
        return self.layers(tokens.flatten(0, -2)).unflatten(0, tokens.shape[:-1])


def make_projection(kind: str, features: int, out_features: int, bias: bool = True) -> nn.Module:
    """A projection of tokens (..., features) to (..., out_features).

    Args:
        kind: "linear", or "mlp" for :class:`TwoLayerProjection`.
        features: size of a token.
        out_features: size of the common space.
        bias: whether the last layer has one.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in PROJECTIONS:
        raise ValueError(f"projection is {kind!r}; expected one of {list(PROJECTIONS)}")
    if kind == "linear":
        return nn.Linear(features, out_features, bias=bias)
    return TwoLayerProjection(features, out_features, bias)
