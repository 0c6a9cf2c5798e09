"""DuSSS, stage 1 (Pan et al., AAAI 2025): dual contrastive learning, similarities supervised by uncertainty.

The objective on class prompts: no report and none of the authors' weights is used. Written from the paper's formulas;
the public code, QingtaoPan/DuSSS, has no licence, disagrees with them and does not run as committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.captions import annotated_classes, caption_contrast, occurrence
from cps4_monai.losses.similarity_supervision import Gaussian, compare, info_nce
from cps4_monai.methods.base import Batch
from cps4_monai.methods.prompted_pretraining import PromptedPretraining
from cps4_monai.networks.ema import ema_update, make_teacher, unwrap
from cps4_monai.networks.evaluation_mode import evaluation_mode
from cps4_monai.networks.uncertain_embeddings import LOCAL_GRID


class DuSSSPretraining(PromptedPretraining):
    """Contrast of slices, captions and momentum copies by similarities that uncertainty corrects.

    A caption names the classes that a labeled slice shows; its embedding is the mean of their prompts'. Patches over
    which nothing is annotated are no part of a slice's. Across the modalities, slice and caption find each other, all
    slices with an equal caption being right. Within them, a slice finds its second view, and a class prompt its second
    wording, both of the momentum encoders. Each process contrasts its own slices only.

    Args:
        network: :class:`cps4_monai.networks.UncertainEmbeddings` around the vision-language model.
        optimizer: of its parameters.
        unannotated: codes in view but never labeled; no caption names them, and their prompts take no part.
        momentum: share of their own weights that the momentum encoders keep in each step.
        temperature: of every contrast.
        uncertainty_weight: lambda of sim'; 0 is plain CLIP with momentum views.
        cross_modal_weight: of the contrast of slices and captions, both ways.
        intra_modal_weight: of the contrasts of slices with slices and of prompts with prompts.
        local_weight: of the contrasts of parts with wholes (fields of a slice, classes of a caption), by cosines.
        masked_weight: of the contrasts of captions with what they hold of a slice, by cosines; above 0 it costs another
            pass of the image encoder, and trains w and b, which rest otherwise.
        objective: what the stage-1 file says that the weights were trained by.
        substitution: what stands in place of the texts that the objective was published with.

    Raises:
        ValueError: a momentum outside [0, 1], a temperature that is not positive, a negative weight, all of them 0.
        TypeError: a network without Gaussian heads.
    """

    source: ClassVar[str] = "Pan et al., AAAI 2025, arXiv 2412.12492 (weakly sourced: paper and public code disagree)"
    labeled_strong_views: ClassVar[int] = 1
    budget_notes = ("momentum encoders on a second view of each slice", "a second wording of each prompt")

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        unannotated: Sequence[int] = (),
        momentum: float = 0.995,
        temperature: float = 0.07,
        uncertainty_weight: float = 0.2,
        cross_modal_weight: float = 1.0,
        intra_modal_weight: float = 1.0,
        local_weight: float = 0.0,
        masked_weight: float = 0.0,
        objective: str = "DuSSS objective on class prompts",
        substitution: str | None = "texts of pictures: the prompts of the classes that a labeled slice shows",
    ) -> None:
        weights = (cross_modal_weight, intra_modal_weight, local_weight, masked_weight)
        _check(momentum, temperature, uncertainty_weight, weights)
        if not hasattr(unwrap(network), "image_gaussian"):
            raise TypeError(
                f"network is a {type(unwrap(network)).__name__}; expected cps4_monai.networks.UncertainEmbeddings "
                "around the vision-language model"
            )
        super().__init__(network, optimizer, objective, substitution, unannotated)
        self.networks["momentum"] = make_teacher(network)
        self.momentum = momentum
        self.temperature = temperature
        self.uncertainty_weight = uncertainty_weight
        self.cross_modal_weight = cross_modal_weight
        self.intra_modal_weight = intra_modal_weight
        self.local_weight = local_weight
        self.masked_weight = masked_weight

    def train(self) -> None:
        """The model trains, its momentum copy stays in evaluation mode."""
        self.networks["model"].train()
        self.networks["momentum"].eval()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Similarities in which the contrasts are made, with the classes ``present`` (B, C) bool.

        sim' of ``image_to_caption``, ``image_to_image`` (B, B) and ``prompt_to_prompt`` (C, C); ``uncertain_share``
        (B, B) of slices and captions. Cosines, where they count: ``local_image`` (16 B, B), ``local_prompt`` (C, B),
        ``masked_feature`` and ``masked_image`` (B, B).

        Raises:
            ValueError: a batch without second views.
        """
        labeled = batch["labeled"]
        if "image_strong" not in labeled:
            raise ValueError("the labeled batch holds no 'image_strong'; make the views with strong_views: 1")
        return self._similarities(self.networks["model"], labeled)

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``; before their weights ``loss_cross_modal``, ``loss_intra_modal`` and, where they count, the others.

        ``loss_local``, ``loss_masked``: each is the sum of its two contrasts. ``uncertain_share`` is the mean over
        slices and their own captions of what uncertainty takes away from their dissimilarity; it is shown only.
        """
        present = outputs["present"]
        parts = {
            "loss_cross_modal": 2 * self._of_captions(outputs["image_to_caption"], present),
            "loss_intra_modal": self._within(outputs["image_to_image"], outputs["prompt_to_prompt"], present.any(1)),
        }
        if self.local_weight > 0:
            parts["loss_local"] = self._local(outputs, present)
        if self.masked_weight > 0:
            masked = [self._of_captions(outputs[name], present) for name in ("masked_feature", "masked_image")]
            parts["loss_masked"] = torch.stack(masked).sum()
        weighted = [getattr(self, f"{name.removeprefix('loss_')}_weight") * part for name, part in parts.items()]
        shown = outputs["uncertain_share"].detach().diagonal().mean()
        return {"loss": torch.stack(weighted).sum(), **parts, "uncertain_share": shown}

    def after_step(self) -> None:
        """Moves every parameter of the momentum copy: momentum * old + (1 - momentum) * new."""
        super().after_step()
        ema_update(self.networks["momentum"], self.networks["model"], self.momentum)

    def validation_loss(self, image: Tensor, label: Tensor) -> Tensor:
        """The loss of slices (B, 1, H, W) with their labels (B, 1, H, W), in evaluation mode and without gradient.

        Each slice is its own second view.
        """
        batch = {"labeled": {"image": image, "image_strong": image, "label": label}}
        model = unwrap(self.networks["model"])
        # MONAI's evaluator puts it back into training mode after each volume.
        with torch.no_grad(), evaluation_mode(model):
            return self.losses(self._similarities(model, batch["labeled"]), batch)["loss"]

    def _similarities(self, model: nn.Module, labeled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        bare: Any = self.deployed
        shown = occurrence(labeled["label"], bare.num_classes, bare.grid_size, self.unannotated)
        ours = model(labeled["image"], shown=shown, masked=self.masked_weight > 0)
        with torch.no_grad():
            theirs = self.networks["momentum"](labeled["image_strong"], shown=shown, second_wording=True)
        similarity, share = self._compare(ours, "image", ours, "caption")
        return {
            "present": shown.flatten(2).any(2),
            "image_to_caption": similarity,
            "uncertain_share": share,
            "image_to_image": self._compare(ours, "image", theirs, "image")[0],
            "prompt_to_prompt": self._compare(ours, "prompt", theirs, "prompt")[0],
            **(_parts_and_wholes(ours, theirs, shown) if self.local_weight > 0 else {}),
            **{name: value for name, value in ours.items() if name.startswith("masked_")},
        }

    def _compare(
        self, ours: Mapping[str, Tensor], mine: str, theirs: Mapping[str, Tensor], other: str
    ) -> tuple[Tensor, Tensor]:
        return compare(_gaussian(ours, mine), _gaussian(theirs, other), self.uncertainty_weight)

    def _contrast(self, similarity: Tensor, positives: Tensor, among: Tensor | None = None) -> Tensor:
        return info_nce(similarity, positives, self.temperature, among)

    def _of_captions(self, similarity: Tensor, present: Tensor) -> Tensor:
        logits = similarity / self.temperature
        return caption_contrast(logits, logits, present)

    def _within(self, of_images: Tensor, of_prompts: Tensor, named: Tensor) -> Tensor:
        """Slices (B, B) against their second views, plus annotated classes (C, C) against their second wordings."""
        annotated = annotated_classes(len(of_prompts), self.unannotated, of_prompts.device)
        slices = self._contrast(of_images, _own(of_images) & named, named)
        return slices + self._contrast(of_prompts, _own(of_prompts) & annotated, annotated)

    def _local(self, outputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Annotated fields of slices against slices, plus class prompts against the captions that name them."""
        named = present.any(1)
        of_fields, of_prompts = outputs["local_image"], outputs["local_prompt"]
        fields = _own(of_fields).repeat_interleave(len(of_fields) // len(present), 0) & outputs["fields"][:, None]
        return self._contrast(of_fields, fields, named) + self._contrast(of_prompts, present.T, named)


def _own(similarity: Tensor) -> Tensor:
    """(m, m) bool of similarities (n, m): each with itself."""
    return torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)


def _gaussian(said: Mapping[str, Tensor], name: str) -> Gaussian:
    return Gaussian(said[name], said[f"{name}_mu"], said[f"{name}_sigma"])


def _parts_and_wholes(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], shown: Tensor) -> dict[str, Tensor]:
    """Cosines of the momentum encoders' parts, fields (16 B) and class prompts (C), with slices and captions (B).

    With them ``fields`` (16 B,) bool: in which anything is annotated.
    """
    annotated = F.adaptive_max_pool2d(shown.any(1, keepdim=True).float(), LOCAL_GRID) > 0
    with torch.autocast(shown.device.type, enabled=False):
        return {
            "local_image": theirs["local"].flatten(0, 1) @ ours["image"].T,
            "local_prompt": theirs["prompt"] @ ours["caption"].T,
            "fields": annotated.flatten(),
        }


def _check(momentum: float, temperature: float, uncertainty_weight: float, weights: Sequence[float]) -> None:
    """Refuses numbers out of range.

    Raises:
        ValueError: as said.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}; expected a share from 0 (copy) to 1 (frozen), as 0.995")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number, as 0.07")
    if min(uncertainty_weight, *weights) < 0 or not any(weights):
        raise ValueError(
            f"uncertainty_weight is {uncertainty_weight}, the weights cross_modal, intra_modal, local and masked are "
            f"{list(weights)}; expected numbers of at least 0, one weight above 0"
        )
