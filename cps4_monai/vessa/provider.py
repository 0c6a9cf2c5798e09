"""The frozen assistant as a source of pseudo-labels for stage 2."""

from __future__ import annotations

import torch
from torch import Tensor

from cps4_monai.vessa.assistant import FrozenAssistant
from cps4_monai.vessa.label_map import LabelMap
from cps4_monai.vision.stage1_file import files_of


class AssistantProvider:
    """A :class:`cps4_monai.prompt_map.provider.PseudoLabelProvider` that listens to the student and answers in kind.

    No module: none of its weights enters a checkpoint of stage 2, and none gets a gradient.

    Args:
        assistant: from :func:`cps4_monai.vessa.load_assistant`.
    """

    batch_keys: tuple[str, ...] = ("student_probabilities",)

    def __init__(self, assistant: FrozenAssistant) -> None:
        self.assistant = assistant
        self.files = files_of(assistant)
        self.objective = assistant.objective
        self.label_map = LabelMap(assistant.unannotated)

    @torch.no_grad()
    def __call__(self, images: Tensor, student_probabilities: Tensor | None = None) -> dict[str, Tensor]:
        """``pseudo_probabilities`` (B, C, H, W), their argmax ``prompt_map``, and the logits as ``attention_logits``.

        Args:
            images: (B, 1, H, W) in [0, 1].
            student_probabilities: what the student sees in them, (B, C, H, W); None: it is not asked yet.
        """
        if self.assistant.features.device != images.device:
            self.assistant.to(images.device)
        logits = self.assistant(images, student_probabilities)
        probabilities = self.label_map.probabilities(logits, images.shape[2:])
        return {
            "pseudo_probabilities": probabilities,
            "prompt_map": probabilities.argmax(dim=1, keepdim=True),
            "attention_logits": logits.float(),
        }
