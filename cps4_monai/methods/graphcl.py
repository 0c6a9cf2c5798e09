"""GraphCL (Wang et al., ICML 2025), after third-party notes: bidirectional copy-paste and clusters of deep features.

The official repository could not be read: this rests on the abstract, notes of others, BCP, and the deep-cut clustering
that it builds on. Its formulas are second-hand. It uses no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import ignite.distributed as idist
import torch
from torch import Tensor
from torch.optim import Optimizer

from cps4_monai.methods.base import Batch
from cps4_monai.methods.bcp import BCP
from cps4_monai.networks.ema import unwrap
from cps4_monai.networks.graph_branch import CORRELATIONS, GraphBranch


class GraphCL(BCP):
    """Bidirectional copy-paste whose deepest features form clusters on a graph of each mixed picture.

    L_in + L_out of :class:`BCP` + graph_weight * L_cc, in the second phase; the branch rests in the first. L_cc =
    - sum_ij W_ij <s_i, s_j> / N^2 over the N places of a picture: those that attract (W > 0) are to share a cluster,
    those that repel are not to. The branch is no part of the deployed student.

    Args:
        student: :class:`cps4_monai.networks.GraphBranch`; around an :class:`AlignedResUNet`, the decoder reads aligned
            features in training and inference.
        optimizer: of its parameters.
        graph_weight: of L_cc.
        per_pair: L_cc is divided by N^2: a sum over a quarter of a million pairs drowns the rest. Off, it is the plain
            sum, of which the published weight is 0.01.
        tau: what is less similar than the largest similarity of its picture / tau repels; reported range 2 to 12.
        correlation: "centred" or "printed", see :func:`cps4_monai.networks.graph_branch.correlation_of`.
        dropout_seed: of the branch's dropout, which draws by itself, from this and the step: rectangles are those of
            BCP, and a resumed run draws the same.
        **bcp: as of :class:`BCP`.

    Raises:
        ValueError: a negative weight, a tau of 1 or less, an unknown correlation, and as :class:`BCP`.
        TypeError: a student without the branch.
    """

    source: ClassVar[str] = "Wang et al., ICML 2025 (weakly sourced: the authors' code could not be read)"
    budget_notes = ("a graph over the deepest features of each mixed picture",)

    def __init__(
        self,
        student: GraphBranch,
        optimizer: Optimizer,
        graph_weight: float = 1.0,
        per_pair: bool = True,
        tau: float = 2.0,
        correlation: str = "centred",
        dropout_seed: int = 0,
        **bcp: Any,
    ) -> None:
        if graph_weight < 0 or tau <= 1 or correlation not in CORRELATIONS:
            raise ValueError(
                f"graph_weight is {graph_weight}, tau {tau}, correlation {correlation!r}; expected a number of at "
                f"least 0, one above 1, and one of {list(CORRELATIONS)}"
            )
        if not isinstance(unwrap(student), GraphBranch):
            raise TypeError(f"student is a {type(unwrap(student)).__name__}; expected cps4_monai.networks.GraphBranch")
        super().__init__(student, optimizer, **bcp)
        self.graph_weight = graph_weight
        self.per_pair = per_pair
        self.tau = tau
        self.correlation = correlation
        self.dropout_seed = dropout_seed
        self._generator: torch.Generator | None = None
        self._drawn = (-1, 0)  # update, and forward passes since
        optimizer.register_step_pre_hook(self._rest)

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """As of :class:`BCP`; in the second phase also ``loss_graph`` before its weight.

        Shown beside them: ``graph_share``, the branch's part of the sizes |L_in + L_out| and |graph_weight L_cc|,
        ``clusters_in_use``, mean over pictures, and ``repelling_pairs``, the share of W below 0: where it is 0, one
        cluster for everything is the least of L_cc.
        """
        losses = super().losses(outputs, batch)
        if "clusters" not in outputs:
            return losses
        clusters = outputs["clusters"]
        pairs = clusters.shape[1] ** 2 if self.per_pair else 1
        graph = clustering_loss(outputs["correlation"], clusters).mean() / pairs
        sizes = [part.detach().abs() for part in (self.graph_weight * graph, losses["loss"])]
        share = sizes[0] / (sizes[0] + sizes[1]).clamp(min=1e-12)  # L_cc is negative: of the total it could be anything
        return {
            **losses,
            "loss": losses["loss"] + self.graph_weight * graph,
            "loss_graph": graph,
            "graph_share": share,
            "clusters_in_use": clusters_in_use(clusters),
            "repelling_pairs": (outputs["correlation"].detach() < 0).float().mean(),
        }

    def _pretrained(self, picture: Tensor) -> Tensor:
        return self.networks["student"](picture, resting=True)

    def _mixed(self, inward: Tensor, outward: Tensor) -> dict[str, Tensor]:
        """As of :class:`BCP`, with ``correlation`` (B, N, N) and ``clusters`` (B, N, K) of the mixed pictures."""
        student, settings = self.networks["student"], {"tau": self.tau, "correlation": self.correlation}
        generator = self._drawn_from(inward.device)
        if self.batch_statistics == "separate":
            halves = [student(picture, generator=generator, **settings) for picture in (inward, outward)]
            logits, correlation, clusters = (torch.cat(parts) for parts in zip(*halves, strict=True))
        else:
            logits, correlation, clusters = student(torch.cat((inward, outward)), generator=generator, **settings)
        count = len(inward)
        return {
            "in_logits": logits[:count],
            "out_logits": logits[count:],
            "correlation": correlation,
            "clusters": clusters,
        }

    def _drawn_from(self, device: torch.device) -> torch.Generator:
        """What the dropout of the coming forward pass draws from: the update, the passes of it so far, the process."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device)
        update, passes = self._drawn
        self._drawn = (self.updates, passes + 1 if update == self.updates else 0)
        apart = 1_000_000_007 * (self._drawn[1] * idist.get_world_size() + idist.get_rank())
        return self._generator.manual_seed(self.dropout_seed * 1_000_003 + self.updates + apart)

    def _rest(self, *_: Any) -> None:
        """In the first phase the optimiser passes over the branch: no weight decay either."""
        if self.pretraining:
            for parameter in unwrap(self.networks["student"]).branch:  # type: ignore[union-attr]
                parameter.grad = None


def clustering_loss(correlation: Tensor, clusters: Tensor) -> Tensor:
    """- sum_ij W_ij <s_i, s_j> of each picture, (B,).

    Args:
        correlation: W, (B, N, N).
        clusters: s, (B, N, K), each row adds up to 1.
    """
    return -((correlation @ clusters) * clusters).sum((1, 2))


@torch.no_grad()
def clusters_in_use(clusters: Tensor) -> Tensor:
    """Clusters (B, N, K) to which some place belongs most, mean over the pictures: with one, nothing is told apart."""
    batch, _, number = clusters.shape
    used = torch.zeros(batch, number, device=clusters.device)
    return used.scatter_(1, clusters.argmax(dim=2), 1.0).sum(dim=1).mean()
