"""Graphs over the deepest features of a picture, as GraphCL has them: alignment, and clustering of the nodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cps4_monai.networks.composite import Composite, check_in_pieces
from cps4_monai.networks.resunet import ResUNet

CORRELATIONS = ("centred", "printed")


class GraphAlignment(nn.Module):
    """One graph convolution over the places of a picture: Z = D^-1/2 A D^-1/2 X W, A from analysed features.

    A_ij is the cosine of the analysed features of i and j, 0 where it is negative, so that every degree in D is at
    least 1. The analyser is a 1 x 1 convolution; what the authors' is has not been published where it could be read.

    Args:
        channels: of the features, D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.analyser = nn.Linear(channels, channels)
        self.weight = nn.Linear(channels, channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) to (B, D, h, w); the graph is that of one picture."""
        nodes = features.flatten(2).transpose(1, 2).contiguous()  # (B, N, D)
        analysed = F.normalize(self.analyser(nodes), dim=2)
        aligned = propagated(F.relu(analysed @ analysed.transpose(1, 2)), self.weight(nodes))
        return aligned.transpose(1, 2).reshape(features.shape)


class AlignedResUNet(ResUNet):
    """A ResUNet whose decoder reads the sum of the deepest features and their alignment, in inference as well.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of each level, see :class:`ResUNet`.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 20, features: Sequence[int] = (24, 48, 96, 192, 384)
    ) -> None:
        super().__init__(in_channels, out_channels, features)
        self.align = GraphAlignment(self.features[-1])

    def decode(self, levels: list[Tensor]) -> Tensor:
        """The last features of the levels that :meth:`encode` gave, once the deepest ones are aligned."""
        features = levels[-1] + self.align(levels[-1])
        for level, block in enumerate(self.decoder):
            features = block(features, levels[-2 - level])
        return features


class GraphBranch(Composite):
    """A ResUNet and a branch on its deepest features that sorts the places of a picture into clusters.

    The branch only trains: gradients of its loss reach the encoder, and the decoder does not see it. Of an
    :class:`AlignedResUNet` it takes the alignment that the decoder reads, too; else it has one of its own.

    Args:
        backbone: the network that is deployed.
        clusters: at most; those that no place belongs to are unused. None: as many as classes.
        hidden: channels of the graph convolution before the clusters.
        dropout: share of the features before the clusters that are dropped.
        centre_nodes: places are compared once their picture's mean is taken from the aligned features. The graph of
            the alignment is dense, so that all aligned features of a picture point nearly the same way: compared as
            they are, no pair repels, and one cluster for everything is the least of the loss.

    Raises:
        ValueError: no cluster, a share outside [0, 1).
        TypeError: a backbone that is not in pieces.
    """

    backbone: ResUNet

    def __init__(
        self,
        backbone: ResUNet,
        clusters: int | None = None,
        hidden: int = 64,
        dropout: float = 0.25,
        centre_nodes: bool = True,
    ) -> None:
        check_in_pieces(backbone)
        count = backbone.out_channels if clusters is None else clusters
        if count < 1 or not 0 <= dropout < 1:
            raise ValueError(f"clusters is {clusters}, dropout {dropout}; expected 1 or more, and a share below 1")
        super().__init__(backbone)
        channels = backbone.features[-1]
        self.align = None if isinstance(backbone, AlignedResUNet) else GraphAlignment(channels)
        self.convolution = nn.Linear(channels, hidden, bias=False)
        self.to_clusters = nn.Sequential(nn.Linear(hidden, 32), nn.ELU(), nn.Linear(32, count))
        self.dropout = dropout
        self.centre_nodes = centre_nodes
        self.to(next(backbone.parameters()).device)

    @property
    def branch(self) -> list[nn.Parameter]:
        """Parameters that are not deployed."""
        return [p for name, p in self.named_parameters() if not name.startswith("backbone.")]

    def forward(
        self,
        image: Tensor,
        tau: float | None = None,
        correlation: str = "centred",
        generator: torch.Generator | None = None,
        resting: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Logits (B, C, H, W); with a `tau` also the correlation (B, N, N) of the places and clusters (B, N, K).

        Args:
            image: (B, 1, H, W).
            tau: see :func:`correlation_of`; None: the branch is not asked.
            correlation: likewise.
            generator: draws the dropout; None: the global one.
            resting: the branch has no part in the logits but its gradient, which is 0: DistributedDataParallel waits
                for one of every parameter.
        """
        if tau is None:
            logits = self.backbone(image)
            return logits + 0 * torch.stack([p.sum() for p in self.branch]).sum() if resting else logits
        levels = self.backbone.encode(image)
        logits = self.backbone.logits(self.backbone.decode(levels), list(image.shape[-2:]))
        return (logits, *self.clustered(levels[-1], tau, correlation, generator))

    def clustered(
        self, features: Tensor, tau: float, correlation: str, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Correlation (B, N, N) and clusters (B, N, K), which add up to 1 over K, of features (B, D, h, w); float32."""
        align = self.backbone.align if self.align is None else self.align
        with torch.autocast(features.device.type, enabled=False):
            aligned = align(features.float()).flatten(2).transpose(1, 2)  # type: ignore[operator]
            if self.centre_nodes:
                aligned = aligned - aligned.mean(dim=1, keepdim=True)
            nodes = F.normalize(aligned, dim=2)
            similarity = nodes @ nodes.transpose(1, 2)
            correlated = correlation_of(similarity, tau, correlation)
            edges = F.relu(correlated if correlation == "centred" else similarity)
            hidden = F.elu(propagated(edges, self.convolution(nodes)))
            return correlated, self.to_clusters(self._dropped(hidden, generator)).softmax(dim=2)

    def _dropped(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        if not self.training or self.dropout == 0:
            return features
        kept = torch.rand(features.shape, device=features.device, generator=generator) >= self.dropout
        return features * kept / (1 - self.dropout)


def correlation_of(similarity: Tensor, tau: float, correlation: str = "centred") -> Tensor:
    """What attracts (above 0) and what repels (below) of similarities (B, N, N).

    Args:
        similarity: (B, N, N).
        tau: what is less similar than the largest similarity of its picture / tau repels.
        correlation: "centred" is G - max(G) / tau, of the predecessor (deep-cut clustering). "printed" is the formula
            of the notes on the paper, (G - max(G)) / tau, under which nothing ever attracts.
    """
    largest = similarity.amax(dim=(1, 2), keepdim=True)
    return similarity - largest / tau if correlation == "centred" else (similarity - largest) / tau


def propagated(edges: Tensor, nodes: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 X of edges A (B, N, N), all at least 0, and nodes X (B, N, D); D has the sums of A's rows."""
    scale = edges.sum(dim=2, keepdim=True).clamp(min=1e-6).rsqrt()
    return scale * (edges @ (scale * nodes))
