"""What all objectives of stage 1 share: labeled slices only, a vision-language model, and what stage 2 sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cps4_monai.methods.base import SemiSupervisedMethod


class PromptedPretraining(SemiSupervisedMethod):
    """One vision-language model, trained on labeled slices by an objective that the stage-1 file names.

    Stage 2 sees :meth:`freeze` of it and nothing else, so that rows of a comparison with different objectives differ in
    stage 1 alone.

    Args:
        network: the model, or a composite around it: image (B, 1, H, W) to attention logits (B, C, h, w); the model has
            a ``freeze``.
        optimizer: of its parameters.
        objective: what the stage-1 file says that the weights were trained by.
        substitution: what stands in place of data that the objective was published with (reports, gaze); None: nothing.
        unannotated: see :class:`SemiSupervisedMethod`.
    """

    needs_unlabeled = False

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        objective: str,
        substitution: str | None = None,
        unannotated: Sequence[int] = (),
    ) -> None:
        super().__init__({"model": network}, {"model": optimizer}, "model", unannotated)
        self.objective = objective
        self.substitution = substitution

    def freeze(self) -> Any:
        """What stage 2 sees: the image side with its prompt embeddings, and by which objective it was trained."""
        frozen = self.deployed.freeze()  # type: ignore[operator]
        frozen.objective, frozen.substitution = self.objective, self.substitution
        return frozen
