"""MGCA's objective on class prompts: instances, tokens and prototypes of slices and captions are aligned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.captions import annotated_classes, caption_contrast, mean_where, occurrence
from cps4_monai.losses.cross_attention import cross_attention_alignment
from cps4_monai.losses.prototypes import sinkhorn, swapped_prediction
from cps4_monai.methods.base import Batch
from cps4_monai.methods.prompted_pretraining import PromptedPretraining
from cps4_monai.networks.composite import Composite
from cps4_monai.networks.ema import ema_decay, unwrap
from cps4_monai.networks.evaluation_mode import evaluation_mode


class PrototypeHeads(Composite):
    """A vision-language model with global heads of both modalities and prototypes that they share.

    The model's own projections are the local heads, and all that stage 2 keeps. Its w and b enter no loss: w is fixed
    at the inverse of the temperature of the tokens, and b follows the mean cosine (:meth:`MGCA.after_step`).

    Args:
        backbone: :class:`cps4_monai.vlm.VisionLanguageModel`.
        prototypes: K.
        token_temperature: whose inverse becomes w of the attention logits.

    Raises:
        ValueError: no prototype, or a temperature that is not positive.
    """

    def __init__(self, backbone: Any, prototypes: int = 32, token_temperature: float = 0.1) -> None:
        if prototypes < 1 or not token_temperature > 0:
            raise ValueError(
                f"prototypes is {prototypes}, token_temperature {token_temperature}; expected 1 or more, and above 0"
            )
        super().__init__(backbone)
        self.backbone: Any = backbone
        device = backbone.logit_bias.device
        self.image_head, self.caption_head = backbone.head().to(device), backbone.head().to(device)
        self.prototypes = nn.Parameter(torch.randn(prototypes, backbone.embedding_dim, device=device))
        backbone.log_scale.requires_grad_(False).fill_(-math.log(token_temperature))
        backbone.logit_bias.requires_grad_(False)

    def forward(self, image: Tensor, occurs: Tensor | None = None) -> Any:
        """Attention logits (B, C, h, w); with ``occurs``, what the objective compares.

        Args:
            image: (B, 1, H, W).
            occurs: (B, C, h, w) bool, which class occurs in which cell.

        Returns:
            A dict of ``patches`` (B, E, h * w), ``words`` (C, E), ``image`` and ``caption`` (B, E), of length one, and
            ``prototypes`` (K, E), of length one.
        """
        if occurs is None:
            return self.backbone(image)
        patches, words = self.backbone(image, embeddings=True)
        patches = patches.flatten(2)
        cells, captions = occurs.any(1).flatten(1), occurs.flatten(2).any(2)
        mean_word = (captions.float() @ words) / captions.sum(1, keepdim=True).clamp(min=1)
        return {
            "patches": patches,
            "words": words,
            "image": F.normalize(self.image_head(mean_where(patches, cells[:, None])).float(), dim=1),
            "caption": F.normalize(self.caption_head(mean_word).float(), dim=1),
            "prototypes": F.normalize(self.prototypes.float(), dim=1),
        }

    def parameter_groups(self, lr_pretrained: float, lr_new: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
        """The backbone's groups; heads and prototypes learn at the rate of all that is new."""
        groups = self.backbone.parameter_groups(lr_pretrained, lr_new, layer_decay)
        own = [*self.image_head.parameters(), *self.caption_head.parameters(), self.prototypes]
        return [*groups, {"params": own, "lr": lr_new, "name": "heads and prototypes"}]


class MGCA(PromptedPretraining):
    """Slices and captions made of class prompts, aligned by instances, tokens and prototypes.

    MGCA's objective without reports. A caption is the prompts of the classes that a labeled slice shows, its words are
    these prompts, and the prototypes are free where MGCA's stand for diseases. The parts: ITA, InfoNCE between global
    embeddings (means of patches and of words, through heads of their own); CTA, :func:`cross_attention_alignment`; CPA,
    in which each modality predicts the other's assignment to the prototypes, balanced over the batch and the last pairs
    of the run. CTA alone makes maps, and it knows no mask: nothing says that the patches that a class attends to lie on
    it.

    Args:
        network: :class:`PrototypeHeads`.
        optimizer: of its parameters.
        unannotated: see :class:`SemiSupervisedMethod`.
        instance_weight: of ITA. The authors' command line has 1, 1, 1, their class 1, 0.7, 0.5.
        token_weight: of CTA.
        prototype_weight: of CPA.
        instance_temperature: of ITA.
        token_temperature: of CTA; give the same to the network, whose w is its inverse.
        prototype_temperature: of the softmax over the prototypes.
        queue_length: pairs before this batch that the assignment is balanced over.
        frozen_share: of the run in which the prototypes stay as they were made (the first of 50 epochs).
        objective: what the stage-1 file says.
        substitution: likewise.

    Raises:
        ValueError: a negative weight or length, or a temperature that is not positive.
    """

    source: ClassVar[str] = "Wang et al., MGCA, NeurIPS 2022; without reports"
    budget_notes = ("stage 1: global heads, prototypes, and attention of all patches to one another",)

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        unannotated: Sequence[int] = (),
        instance_weight: float = 1.0,
        token_weight: float = 1.0,
        prototype_weight: float = 1.0,
        instance_temperature: float = 0.07,
        token_temperature: float = 0.1,
        prototype_temperature: float = 0.2,
        queue_length: int = 256,
        frozen_share: float = 0.02,
        objective: str = "MGCA objective on class prompts",
        substitution: str | None = "reports: the prompts of the classes that a labeled slice shows",
    ) -> None:
        super().__init__(network, optimizer, objective, substitution, unannotated)
        self.instance_weight, self.token_weight = instance_weight, token_weight
        self.prototype_weight, self.frozen_share = prototype_weight, frozen_share
        self.instance_temperature, self.token_temperature = instance_temperature, token_temperature
        self.prototype_temperature, self.queue_length = prototype_temperature, queue_length
        self._check()
        prototypes: Any = unwrap(network).prototypes
        # Scores of both modalities, and 1 where a pair counts: rows that were never filled do not.
        self.queue = torch.zeros(queue_length, 2 * len(prototypes) + 1, device=prototypes.device)
        self._pairs: list[Tensor] = []
        self._cosines: list[Tensor] = []

    def _check(self) -> None:
        numbers = ("instance_weight", "token_weight", "prototype_weight", "queue_length", "frozen_share")
        positive = ("instance_temperature", "token_temperature", "prototype_temperature")
        values = {name: getattr(self, name) for name in (*numbers, *positive)}
        wrong = [f"{k} is {v}" for k, v in values.items() if v < 0 or (k in positive and v == 0)]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}; expected weights, lengths, shares of 0 or more, temperatures above 0"
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What :class:`PrototypeHeads` gives, ``occurs``, and the scores of both modalities.

        Raises:
            ValueError: a single slice for heads with BatchNorm.
        """
        heads: Any = unwrap(self.networks["model"]).image_head
        if len(batch["labeled"]["image"]) == 1 and any(isinstance(one, nn.BatchNorm1d) for one in heads.modules()):
            raise ValueError(
                "the batch has one labeled slice, and the heads of projection 'mlp' normalise over a batch; expected 2 "
                "or more. Fix: raise stage1#batch_size, label more slices, or set stage1#network_def#projection to "
                "'linear'"
            )
        outputs = self._compare(self.networks["model"], batch["labeled"]["image"], batch["labeled"]["label"])
        counted = outputs["occurs"].flatten(1).any(1, keepdim=True)
        scores = [outputs["image_scores"], outputs["caption_scores"], counted.float()]
        self._pairs.append(idist.all_gather(torch.cat(scores, dim=1).detach()))
        self._cosines.append(self._cosines_of(outputs))
        return outputs

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``; before their weights ``loss_instance`` (ITA), ``loss_token`` (CTA), ``loss_prototype`` (CPA)."""
        return self._losses(outputs, torch.cat([self._pairs[-1], self.queue]), idist.get_rank())

    def after_step(self) -> None:
        """Moves the pairs of the step into the queue, and b so that the mean attention logit becomes 0.

        A step of slices that nobody annotated leaves b where it is.
        """
        decay = ema_decay(self.updates, 0.99)
        super().after_step()
        with torch.no_grad():
            self.queue.copy_(torch.cat([*reversed(self._pairs), self.queue])[: self.queue_length])
            total, number = idist.all_reduce(torch.stack(self._cosines).sum(0))
            model: Any = self.deployed
            mean = total / number.clamp(min=1)
            model.logit_bias.lerp_(-mean / self.token_temperature, (1 - decay) * (number > 0))
        self._pairs.clear()
        self._cosines.clear()

    def extra_state(self) -> dict[str, Tensor]:
        """``queue`` (queue_length, 2 K + 1)."""
        return {"queue": self.queue}

    def validation_loss(self, image: Tensor, label: Tensor) -> Tensor:
        """The loss of slices (B, 1, H, W) with their labels (B, 1, H, W), in evaluation mode and without gradient.

        The queue is read and left as it is.
        """
        model = unwrap(self.networks["model"])
        # MONAI's evaluator puts it back into training mode after each volume.
        with torch.no_grad(), evaluation_mode(model):
            outputs = self._compare(model, image, label)
        counted = outputs["occurs"].flatten(1).any(1, keepdim=True)
        pairs = torch.cat([outputs["image_scores"], outputs["caption_scores"], counted.float()], dim=1)
        return self._losses(outputs, torch.cat([pairs, self.queue]), 0)["loss"]

    def _compare(self, network: nn.Module, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        model: Any = self.deployed
        occurs = occurrence(label, model.num_classes, model.grid_size, self.unannotated)
        outputs = {**network(image, occurs), "occurs": occurs}
        prototypes = outputs["prototypes"]
        if self.frozen_share > 0 and self.updates < self.share_of_run(self.frozen_share):
            prototypes = prototypes.detach() + 0 * prototypes  # 0 *: every parameter has a gradient in every phase
        with torch.autocast(occurs.device.type, enabled=False):
            scores = {f"{side}_scores": outputs[side] @ prototypes.T for side in ("image", "caption")}
        return {**outputs, **scores}

    def _losses(self, outputs: Mapping[str, Tensor], pairs: Tensor, rank: int) -> dict[str, Tensor]:
        """The losses of a batch, whose own rows of all pairs are those of this rank."""
        with torch.autocast(pairs.device.type, enabled=False):
            occurs = outputs["occurs"]
            captions, cells = occurs.flatten(2).any(2), occurs.any(1).flatten(1)
            similarity = outputs["image"] @ outputs["caption"].T / self.instance_temperature
            instance = caption_contrast(similarity, similarity, captions)
            token = cross_attention_alignment(
                outputs["words"], outputs["patches"], captions, cells, self.token_temperature
            )
            prototype = self._prototype_loss(outputs, pairs, rank, captions.any(1))
        total = self.instance_weight * instance + self.token_weight * token + self.prototype_weight * prototype
        return {"loss": total, "loss_instance": instance, "loss_token": token, "loss_prototype": prototype}

    def _prototype_loss(self, outputs: Mapping[str, Tensor], pairs: Tensor, rank: int, counted: Tensor) -> Tensor:
        image, caption, valid = pairs.split([(pairs.shape[1] - 1) // 2] * 2 + [1], dim=1)
        own = slice(rank * len(counted), (rank + 1) * len(counted))
        targets = sinkhorn(image, valid[:, 0] > 0)[own], sinkhorn(caption, valid[:, 0] > 0)[own]
        scores = outputs["image_scores"], outputs["caption_scores"]
        return swapped_prediction(*scores, targets, counted, self.prototype_temperature)

    @torch.no_grad()
    def _cosines_of(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Sum and number of the cosines of annotated cells and annotated classes, (2,) float32."""
        with torch.autocast(outputs["words"].device.type, enabled=False):
            cosines = (outputs["words"].float() @ outputs["patches"].float()).flatten(1)  # (B, C * P)
        kept = annotated_classes(len(outputs["words"]), self.unannotated, cosines.device)
        cells = outputs["occurs"].any(1).flatten(1)
        counted = (kept[:, None] & cells[:, None]).flatten(1)
        return torch.stack([cosines.masked_fill(~counted, 0.0).sum(), counted.sum().float()])
