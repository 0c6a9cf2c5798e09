"""Adds the prompt map y_text to each unlabeled batch, on the device, before the training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from ignite.engine import Events
from torch import Tensor

from cps4_monai.engines.trainer import SemiSupervisedTrainer

STUDENT_PROBABILITIES = "student_probabilities"


class PromptMapHandler:
    """Asks a pseudo-label provider about the weak view of the unlabeled images (eq. 3).

    At GET_BATCH_COMPLETED the images are still where the loader put them: they move to the engine's device here, once,
    and stay there for the training step. The provider runs without gradient and in the engine's precision. Everything
    that it returns (`prompt_map`, `attention_logits`, `pseudo_probabilities`) is put beside the images. Its
    weights belong to no method and so to no checkpoint.

    Args:
        provider: a :class:`cps4_monai.prompt_map.provider.PseudoLabelProvider`, frozen: images (B, 1, H, W) ->
            {"prompt_map": (B, 1, H, W) int64, "attention_logits": (B, C, h, w)}. Entries of the unlabeled batch that
            its ``batch_keys`` name are passed to it too; "student_probabilities" among them stands for what the student
            says of these images now, (B, C, H, W), at the cost of one more forward pass; a method may say nothing yet,
            and then the provider is told nothing.
    """

    def __init__(self, provider: Callable[..., Mapping[str, Tensor]]) -> None:
        self.provider = provider

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        """Registers with a :class:`cps4_monai.engines.SemiSupervisedTrainer`."""
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        """Replaces ``engine.state.batch`` by one that holds the prompt map; the loader's own dicts stay untouched.

        Raises:
            ValueError: a batch without unlabeled images, or a provider that returns no prompt map.
        """
        if not engine.method.needs_prompt_map:
            return
        batch = engine.state.batch
        if not isinstance(batch, Mapping) or "unlabeled" not in batch:
            raise ValueError(
                "the batch holds no 'unlabeled' images, which this method's prompt map is made for; give the data "
                "loader unlabeled subjects or choose the method 'supervised'"
            )
        unlabeled = batch["unlabeled"]
        images = unlabeled["image"].to(engine.state.device, non_blocking=engine.non_blocking)
        wanted = getattr(self.provider, "batch_keys", ())
        extra = {key: unlabeled[key] for key in wanted if key in unlabeled}
        with engine.autocast():
            heard = engine.method.feedback(images) if STUDENT_PROBABILITIES in wanted else None
            if heard is not None:
                extra[STUDENT_PROBABILITIES] = heard
            provided = self.provider(images, **extra)
        if "prompt_map" not in provided:
            raise ValueError(f"the provider returned {sorted(provided)}; expected a 'prompt_map' among them")
        engine.state.batch = {**batch, "unlabeled": {**unlabeled, "image": images, **provided}}
