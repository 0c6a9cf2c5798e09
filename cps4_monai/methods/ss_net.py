"""SS-Net (Wu et al., MICCAI 2022): smooth predictions, and classes that gather around what they remember.

Read with the authors' code, ycwu1997/SS-Net (MIT); nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cps4_monai.losses.dice import check_supervision, soft_dice_distance, supervision_loss
from cps4_monai.losses.semi_supervised import IGNORE, mask_unannotated, ramp_up, target_codes
from cps4_monai.losses.whole_batch import whole_sum
from cps4_monai.methods.base import Batch, SemiSupervisedMethod
from cps4_monai.methods.input_gradients import input_gradient, resting_statistics
from cps4_monai.methods.teacher_student import BATCH_STATISTICS
from cps4_monai.networks.class_memory import ClassMemory
from cps4_monai.networks.ema import unwrap

MEMORY_ORDERS = ("best", "worst")


class SSNet(SemiSupervisedMethod):
    """Predictions that withstand the worst small change of the picture, and features pulled to class memories.

    L_sup + weight * ramp * (L_vat + separation_weight * (L_c of labeled + L_c of unlabeled slices)), on the weak views
    of the unlabeled slices; labeled ones have their intensities changed, as for all methods. L_vat is the distance of
    the prediction to that on the picture moved by an adversarial perturbation, found by one step of gradient ascent
    (Miyato et al., TPAMI 2018). L_c is 1 - cosine of drawn features and the remembered features of their class, weighed
    by selectors, mean over the classes that have both; there are no negative pairs. There is no teacher; heads,
    selectors and memory are not deployed.

    Args:
        student: :class:`cps4_monai.networks.ClassMemory`.
        optimizer: of its parameters.
        unannotated: see :class:`SemiSupervisedMethod`.
        consistency_weight: of all that is not L_sup.
        ramp_share: share of the run over which that weight grows.
        separation_weight: of L_c.
        vat_rms: root mean square of the perturbation per pixel, in units of the picture: 6 / 256, the authors' length 6
            on 256 x 256 pixels.
        probe_rms: that of the random step at which the gradient is taken: 10 / 256, likewise.
        pixels_per_class: drawn for L_c in each step, from labeled and from unlabeled slices.
        keep_memory: a class that is not seen keeps what it remembers; off, each step starts with an empty memory.
        memory_order: "best" remembers features of the largest weight; "worst" of the smallest, as the authors' code.
        weigh_memory: remembered features have weights, too; their code makes all of them 1.
        background: the background is a class of L_c as well.
        supervision: "ce+dice", "ce" or "dice" (the authors').
        batch_statistics: "separate" or "joint" (the authors'), see :class:`TeacherStudent`.

    Raises:
        ValueError: a share outside [0, 1], a negative weight or length, no pixel to draw, an unknown `memory_order`,
            `supervision` or `batch_statistics`.
        TypeError: a student without a memory.
    """

    source: ClassVar[str] = "Wu et al., MICCAI 2022; code read: ycwu1997/SS-Net (MIT)"
    budget_notes = (
        "a second pass on a perturbed picture, and a gradient of the picture",
        "about two and a half times the computation",
    )

    def __init__(
        self,
        student: ClassMemory,
        optimizer: Optimizer,
        unannotated: Sequence[int] = (),
        consistency_weight: float = 0.1,
        ramp_share: float = 1.0,
        separation_weight: float = 0.1,
        vat_rms: float = 6 / 256,
        probe_rms: float = 10 / 256,
        pixels_per_class: int = 256,
        keep_memory: bool = True,
        memory_order: str = "best",
        weigh_memory: bool = True,
        background: bool = False,
        supervision: str = "ce+dice",
        batch_statistics: str = "separate",
    ) -> None:
        check_supervision(supervision)
        for name, value, known in (
            ("memory_order", memory_order, MEMORY_ORDERS),
            ("batch_statistics", batch_statistics, BATCH_STATISTICS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {list(known)}")
        if not 0 <= ramp_share <= 1:
            raise ValueError(f"ramp_share is {ramp_share}; expected a share from 0 to 1")
        if min(consistency_weight, separation_weight, vat_rms, probe_rms) < 0 or pixels_per_class < 1:
            raise ValueError(
                f"consistency_weight is {consistency_weight}, separation_weight {separation_weight}, vat_rms {vat_rms},"
                f" probe_rms {probe_rms}, pixels_per_class {pixels_per_class}; expected numbers of at least 0, and at "
                "least 1 pixel"
            )
        if not isinstance(unwrap(student), ClassMemory):
            raise TypeError(f"student is a {type(unwrap(student)).__name__}; expected cps4_monai.networks.ClassMemory")
        super().__init__({"student": student}, {"student": optimizer}, "student", unannotated)
        self.consistency_weight = consistency_weight
        self.ramp_share = ramp_share
        self.separation_weight = separation_weight
        self.vat_rms = vat_rms
        self.probe_rms = probe_rms
        self.pixels_per_class = pixels_per_class
        self.keep_memory = keep_memory
        self.memory_order = memory_order
        self.weigh_memory = weigh_memory
        self.background = background
        self.supervision = supervision
        self.batch_statistics = batch_statistics

    @property
    def student(self) -> nn.Module:
        """The network that is deployed, unwrapped and without heads."""
        return self.deployed

    @property
    def memory(self) -> ClassMemory:
        """The network with heads and memory, unwrapped."""
        return unwrap(self.networks["student"])  # type: ignore[return-value]

    @property
    def ramp(self) -> float:
        """Present factor of all that is not L_sup, in (0, 1]."""
        return ramp_up(self.updates, self.share_of_run(self.ramp_share))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, C, H, W) of both kinds of slices, as they are and perturbed, and what L_c compares.

        ``labeled_logits``, ``unlabeled_logits``, ``labeled_perturbed``, ``unlabeled_perturbed``; ``labeled_features``
        and ``unlabeled_features`` (C, K, dimension) with ``labeled_drawn`` and ``unlabeled_drawn`` (C, K) bool. Labeled
        pixels that are called right enter the memory here.
        """
        labeled, unlabeled = batch["labeled"]["image"], batch["unlabeled"]["image"]
        label, count = batch["labeled"]["label"], len(labeled)
        if self.batch_statistics == "separate":
            of_labeled = self._passed(labeled, partial(self._maps_of_labeled, label=label), label)
            passes = [of_labeled, self._passed(unlabeled, self._map_of_unlabeled, None)]
        else:
            passes = [self._passed(torch.cat((labeled, unlabeled)), partial(self._maps_of_both, label=label), label)]
        together = {key: torch.cat([outputs[key] for outputs in passes]) for key in passes[0]}
        projected, predicted, drawn = (together[key] for key in ("projected", "predicted", "drawn"))  # three maps
        right, of_right = _of_all_processes(projected[1]), _of_all_processes(drawn[1])
        self.memory.remember(right, of_right, self.keep_memory, self.memory_order == "best")
        return {
            "labeled_logits": together["logits"][:count],
            "unlabeled_logits": together["logits"][count:],
            "labeled_perturbed": together["perturbed"][:count],
            "unlabeled_perturbed": together["perturbed"][count:],
            "labeled_features": predicted[0],
            "labeled_drawn": drawn[0],
            "unlabeled_features": predicted[2],
            "unlabeled_drawn": drawn[2],
        }

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised``, and before their weights ``loss_smoothness`` and ``loss_separation``."""
        label = batch["labeled"]["label"]
        supervised = supervision_loss(outputs["labeled_logits"], label, self.unannotated, self.supervision)
        clean = self._probs(torch.cat((outputs["labeled_logits"], outputs["unlabeled_logits"])).detach())
        perturbed = torch.cat((outputs["labeled_perturbed"], outputs["unlabeled_perturbed"]))
        smoothness = self._distance(perturbed, clean, self._counting(clean, label))
        separation = self._separation(outputs)
        unsupervised = smoothness + self.separation_weight * separation
        total = supervised + self.ramp * self.consistency_weight * unsupervised
        return {
            "loss": total,
            "loss_supervised": supervised,
            "loss_smoothness": smoothness,
            "loss_separation": separation,
        }

    def _passed(self, image: Tensor, maps: Callable[[Tensor], Tensor], label: Tensor | None) -> dict[str, Tensor]:
        """What the network gives of pictures, with ``perturbed`` logits of the same pictures, normalised alike."""
        network = self.networks["student"]
        outputs = network(image, maps=maps, count=self.pixels_per_class)
        if not self.background:
            outputs["drawn"][:, 0] = False
        clean = self._probs(outputs["logits"].detach())
        distance = partial(self._distance, clean=clean, where=self._counting(clean, label))
        moved = image + adversarial_perturbation(network, image, distance, self.vat_rms, self.probe_rms)
        with resting_statistics(network):
            return {**outputs, "perturbed": network(moved)}

    def _distance(self, logits: Tensor, clean: Tensor, where: Tensor) -> Tensor:
        return soft_dice_distance(self._probs(logits), clean, where)

    def _separation(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """L_c of labeled and of unlabeled slices, added."""
        network = self.memory
        with torch.autocast(network.memory.device.type, enabled=False):
            remembered = network.memory_selectors(network.memory)
            if not self.weigh_memory:  # weights of 1; DistributedDataParallel waits for a gradient, be it 0
                remembered = torch.ones_like(remembered) + 0 * remembered
            terms = []
            for kind in ("labeled", "unlabeled"):
                features = outputs[f"{kind}_features"].float()
                weights = network.feature_selectors(features)
                drawn = outputs[f"{kind}_drawn"]
                terms.append(class_contrast(features, drawn, weights, network.memory, network.filled > 0, remembered))
            return torch.stack(terms).sum()

    def _probs(self, logits: Tensor) -> Tensor:
        return mask_unannotated(logits, self.unannotated).softmax(dim=1)

    def _counting(self, probs: Tensor, label: Tensor | None) -> Tensor:
        """(B, 1, H, W) bool: all pixels but those of labeled slices, which come first, that nobody annotated."""
        everywhere = torch.ones_like(probs[:, :1], dtype=torch.bool)
        if label is None:
            return everywhere
        count = len(label)
        annotated = target_codes(label, probs[:count], self.unannotated) != IGNORE
        return torch.cat((annotated.unsqueeze(1), everywhere[count:]))

    def _maps_of_labeled(self, logits: Tensor, label: Tensor) -> Tensor:
        """The classes of labeled slices, and those of their pixels that are called right: (2, B, H, W)."""
        codes = target_codes(label, logits, self.unannotated)
        return torch.stack((codes, codes.masked_fill(codes != self._called(logits), IGNORE)))

    def _map_of_unlabeled(self, logits: Tensor) -> Tensor:
        """The classes that the pixels of unlabeled slices are called: (1, B, H, W)."""
        return self._called(logits).unsqueeze(0)

    def _maps_of_both(self, logits: Tensor, label: Tensor) -> Tensor:
        """The maps of labeled slices, which come first in the batch, and that of the others: (3, B, H, W)."""
        of_labeled = self._maps_of_labeled(logits[: len(label)], label)
        of_unlabeled = self._map_of_unlabeled(logits[len(label) :])
        count, others = len(label), len(of_unlabeled[0])
        labeled = F.pad(of_labeled, (0, 0, 0, 0, 0, others), value=IGNORE)
        return torch.cat((labeled, F.pad(of_unlabeled, (0, 0, 0, 0, count, 0), value=IGNORE)))

    def _called(self, logits: Tensor) -> Tensor:
        return mask_unannotated(logits, self.unannotated).argmax(dim=1)


def adversarial_perturbation(
    network: nn.Module, images: Tensor, distance: Callable[[Tensor], Tensor], rms: float, probe_rms: float
) -> Tensor:
    """The change of pictures, of a given size, along which a distance of the logits grows fastest.

    Args:
        network: may be wrapped; its running statistics stay.
        images: (B, 1, H, W).
        distance: logits (B, C, H, W) to a scalar.
        rms: root mean square per pixel, of each slice.
        probe_rms: that of the random step from the picture at which the gradient is taken.

    Returns:
        (B, 1, H, W) float32, without a graph.
    """
    probe = _of_size(torch.rand(images.shape, device=images.device) - 0.5, probe_rms)
    return _of_size(input_gradient(network, images + probe, distance), rms)


def _of_size(change: Tensor, rms: float) -> Tensor:
    """Each slice scaled to a root mean square; one of zeros stays."""
    flat = change.flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    flat = F.normalize(flat / largest, eps=1e-30)  # squares of what has nearly vanished would be zero
    return (flat * (rms * flat.shape[1] ** 0.5)).view(change.shape)


def class_contrast(
    features: Tensor, drawn: Tensor, weights: Tensor, memory: Tensor, filled: Tensor, memory_weights: Tensor
) -> Tensor:
    """Weighed mean over pairs of 1 - cosine of a feature and a remembered one, mean over the classes that have both.

    Args:
        features: (C, K, dimension).
        drawn: (C, K) bool; the others do not count.
        weights: (C, K), scaled here to a mean of 1 in each class.
        memory: (C, M, dimension).
        filled: (C, M) bool.
        memory_weights: (C, M), scaled likewise.

    Returns:
        Scalar in [0, 2]; 0 without a class that has both.
    """
    pairs = F.normalize(features, dim=2) @ F.normalize(memory, dim=2).transpose(1, 2)
    weights, of_memory = weights * drawn, _mean_of_one(memory_weights, filled)
    unlike = ((1 - pairs) * weights.unsqueeze(2) * of_memory.unsqueeze(1)).sum((1, 2))
    remembered, found = filled.sum(dim=1), whole_sum(drawn.sum(dim=1))
    of_class = whole_sum(unlike) / whole_sum(weights.sum(dim=1)).clamp(min=1e-12) / remembered.clamp(min=1)
    both = (found > 0) & (remembered > 0)
    return (of_class * both).sum() / both.sum().clamp(min=1)


def _of_all_processes(own: Tensor) -> Tensor:
    """(C, K, ...) of this process to (C, processes * K, ...) of all."""
    everywhere: Tensor = idist.all_gather(own.detach().transpose(0, 1).contiguous())
    return everywhere.transpose(0, 1)


def _mean_of_one(weights: Tensor, valid: Tensor) -> Tensor:
    """Weights whose mean over the valid ones of a class is 1, 0 elsewhere."""
    weights = weights * valid
    return weights * (valid.sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1e-12))
