"""The assistant: template bank, reference encoder and mask decoder in one network (VESSA-style).

After Guo et al., arXiv 2511.19759, of which the architecture is known in outline only; widths, depths, losses and
schedules are this package's. No weights of the authors, of Qwen3-VL or of SAM 2 are in it unless somebody puts them in
by a local folder: by default it is trained from scratch on the labeled slices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cps4_monai.networks.evaluation_mode import aside
from cps4_monai.vessa.feedback import KINDS, check_kinds, feedback_prompts, no_feedback
from cps4_monai.vessa.parts import Feedback, Picture, Templates
from cps4_monai.vessa.prompts import EncodedPrompts, StoredPrompts
from cps4_monai.vessa.template_bank import TemplateBank, pooled_feature
from cps4_monai.vision.encoder import VisionEncoder
from cps4_monai.vision.layer_decay import pretrained_groups

CHUNK = 16


class Assistant(nn.Module):
    """Pictures to logits of all classes, by the labeled slices that look most like them.

    In evaluation mode the templates are the best matches, and the bank's tokens are computed once and kept until the
    next call in training mode. In training mode a template is of another patient and is drawn among the best matches.

    Args:
        image_encoder: the ViT; its mean patch token is what templates are matched by.
        prompts: :class:`cps4_monai.vessa.EncodedPrompts` in stage 1; stored ones in a frozen copy.
        reference: :class:`cps4_monai.vessa.parts.ReferenceEncoder`.
        mask_decoder: :class:`cps4_monai.vessa.parts.MaskDecoder`.
        bank: the templates.
        templates: how many a picture gets in evaluation mode.
        pool: templates of a training picture are drawn among this many best matches.
        feedback: kinds of prompts that student probabilities become: "mask", "box", "point".
        unannotated: codes that the labels never show.

    Attributes:
        objective: what the weights were trained by; empty where nothing is known.
        substitution: what stands in place of what the objective was published with; None: nothing.
        path: of the file that it was read from; None: of none.
        waits_for_device: whether a call waits for the device, as parts in local folders do.

    Raises:
        ValueError: fewer than one template, or unknown kinds of feedback.
    """

    def __init__(
        self,
        image_encoder: VisionEncoder,
        prompts: Any,
        reference: Any,
        mask_decoder: Any,
        bank: TemplateBank,
        templates: int = 3,
        pool: int = 3,
        feedback: Sequence[str] = KINDS,
        unannotated: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if min(templates, pool) < 1:
            raise ValueError(f"templates is {templates}, pool {pool}; expected 1 or more of each. Fix: raise it")
        self.image_encoder = image_encoder
        self.prompts = prompts
        self.reference = reference
        self.mask_decoder = mask_decoder
        self.bank = bank
        self.templates, self.pool, self.feedback = templates, pool, check_kinds(feedback)
        self.unannotated = tuple(sorted(unannotated))
        self.objective = ""
        self.substitution: str | None = None
        self.path: Path | None = None
        self.waits_for_device = bool(reference.waits_for_device or mask_decoder.waits_for_device)
        features = torch.zeros(len(bank), image_encoder.embed_dim)
        self.register_buffer("features", features, persistent=False)
        self._kept: tuple[Tensor, Tensor] | None = None

    features: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Assistant:
        """Moves the bank along, and lets go what was kept of it: neither is a tensor of the module."""
        self._kept = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.bank.to(self.features.device)
        return self

    @property
    def num_classes(self) -> int:
        """C."""
        return self.bank.num_classes

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the slices."""
        return self.image_encoder.image_size

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values of which, with the weights and the bank, the same assistant is built."""
        return {
            "image_encoder": self.image_encoder.arguments,
            "text_dim": self.prompts.embed_dim,
            "reference": {"class": type(self.reference).__name__, **self.reference.arguments},
            "mask_decoder": {"class": type(self.mask_decoder).__name__, **self.mask_decoder.arguments},
            "templates": self.templates,
            "pool": self.pool,
            "feedback": list(self.feedback),
        }

    def forward(
        self,
        image: Tensor,
        student_probabilities: Tensor | None = None,
        slice_id: Tensor | None = None,
        count: int | None = None,
        without: Tensor | None = None,
        with_text: bool = False,
    ) -> Any:
        """Logits of a batch.

        Args:
            image: (B, 1, H, W) in [0, 1].
            student_probabilities: (B, C, H, W), of which prompts are made; None: no feedback.
            slice_id: (B,) positions in the bank's data set, whose patients' templates are left out; None: nobody's.
            count: templates of each picture; None: as many as in evaluation mode.
            without: (B,) bool, pictures that get no template; None: all get some.
            with_text: give the reference encoder's text loss, too.

        Returns:
            (B, C, h', w'); with `with_text` a pair of that and a scalar, or None where no text is trained.
        """
        picture = Picture(image, self.image_encoder(image))
        templates = self.match(picture, slice_id, self.templates if count is None else count, without)
        seg, text_loss = self.reference(picture, templates, self.prompts())
        logits = self.mask_decoder(picture, templates, seg, self.prompts_of(image, student_probabilities))
        return (logits, text_loss) if with_text else logits

    def prompts_of(self, image: Tensor, student_probabilities: Tensor | None) -> Feedback:
        """Prompts made of what a student sees in the pictures (B, 1, H, W)."""
        if student_probabilities is None:
            return no_feedback(len(image), self.num_classes, image.shape[2:], image.device)
        return feedback_prompts(student_probabilities, self.feedback)

    def match(self, picture: Picture, slice_id: Tensor | None, count: int, without: Tensor | None = None) -> Templates:
        """The templates of each picture.

        Args:
            picture: what is asked about.
            slice_id: see :meth:`forward`.
            count: n.
            without: see :meth:`forward`.
        """
        self.bank.to(picture.image.device)
        if self.training:
            self._kept = None  # the step that follows changes the encoder
        features, tokens = (self.features, None) if self.training else self.known()
        excluded = None if slice_id is None else self.bank.patient_of_slice[slice_id]
        pool = self.pool if self.training else None
        query = pooled_feature(picture.tokens)
        chosen = self.bank.match(query, features, count, excluded, pool)
        images = self.bank.images[chosen].to(picture.image.dtype)
        if tokens is None:
            shown = self.image_encoder(images.flatten(0, 1)).unflatten(0, chosen.shape)
        else:
            shown = tokens[chosen]
        there = torch.ones_like(chosen[:, 0], dtype=torch.bool) if without is None else ~without
        return Templates(images, self.bank.labels[chosen], shown, self.bank.cells[chosen], there)

    def known(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) and tokens (N, D, h, w) of the bank, as the encoder sees it in evaluation mode."""
        device = self.features.device
        if self._kept is None or self._kept[0].device != device:
            self.bank.to(device)
            with aside(self.image_encoder):
                tokens = torch.cat([self.image_encoder(part.float()) for part in self.bank.images.split(CHUNK)])
                self._kept = (pooled_feature(tokens), tokens)
        return self._kept

    @torch.no_grad()
    def refresh(self) -> None:
        """Computes anew the features that templates are matched by in training."""
        self._kept = None
        self.features.copy_(self.known()[0])
        self._kept = None

    def parameter_groups(
        self, lr_pretrained: float = 1e-5, lr_new: float = 5e-4, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Groups for an optimiser: parts that start from trained weights, and all the rest that trains.

        Args:
            lr_pretrained: learning rate of pretrained encoders, of their last block and what follows it, and of what a
                mask decoder has read from a folder.
            lr_new: of everything else.
            layer_decay: see :func:`cps4_monai.vision.layer_decay.pretrained_groups`.
        """
        encoders = [encoder for encoder in (self.image_encoder, self.prompts) if encoder.pretrained]
        read = getattr(self.mask_decoder, "pretrained_parameters", [])
        groups = pretrained_groups(encoders, lr_pretrained, layer_decay, following=read)
        seen = {id(p) for group in groups for p in group["params"]}
        new = [p for p in self.parameters() if p.requires_grad and id(p) not in seen]
        return [*groups, *([{"params": new, "lr": lr_new, "name": "new"}] if new else [])]

    @torch.no_grad()
    def freeze(self) -> Assistant:
        """A copy without gradients and without text encoder, in evaluation mode for good; the bank is shared."""
        was_training = self.prompts.training
        stored = StoredPrompts(self.prompts.eval()())
        self.prompts.train(was_training)
        parts = (copy.deepcopy(part) for part in (self.image_encoder, self.reference, self.mask_decoder))
        encoder, reference, decoder = parts
        frozen = FrozenAssistant(
            encoder, stored, reference, decoder, self.bank, self.templates, self.pool, self.feedback, self.unannotated
        )
        return frozen.to(self.features.device)


def build_assistant(
    image_encoder: VisionEncoder,
    text_encoder: Any,
    prompts: Sequence[str],
    reference: Any,
    mask_decoder: Any,
    bank: TemplateBank,
    centre_prompts: bool = True,
    templates: int = 3,
    pool: int = 3,
    feedback: Sequence[str] = KINDS,
    unannotated: Sequence[int] = (),
) -> Assistant:
    """The assistant of stage 1, in the words in which configs describe a vision-language model.

    Args:
        image_encoder: see :class:`Assistant`.
        text_encoder: reads the prompts.
        prompts: one text per class, by code.
        reference: see :class:`Assistant`.
        mask_decoder: see :class:`Assistant`.
        bank: see :class:`Assistant`.
        centre_prompts: take away what the prompts' embeddings have in common.
        templates: see :class:`Assistant`.
        pool: see :class:`Assistant`.
        feedback: see :class:`Assistant`.
        unannotated: see :class:`Assistant`.
    """
    encoded = EncodedPrompts(text_encoder, prompts, centre_prompts)
    return Assistant(image_encoder, encoded, reference, mask_decoder, bank, templates, pool, feedback, unannotated)


class FrozenAssistant(Assistant):
    """An assistant that has been trained: always in evaluation mode, never with a gradient. Arguments as there."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenAssistant:
        """Stays in evaluation mode whatever is asked."""
        super().train(False)
        return self
