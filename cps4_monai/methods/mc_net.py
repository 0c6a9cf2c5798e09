"""MC-Net+ (Wu et al., Medical Image Analysis 2022): three decoders on one encoder that must agree.

Read with the authors' code, ycwu1997/MC-Net (MIT); nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cps4_monai.losses.dice import check_supervision, supervision_loss
from cps4_monai.losses.semi_supervised import IGNORE, mask_unannotated, ramp_up, target_codes
from cps4_monai.losses.whole_batch import whole_sum
from cps4_monai.methods.base import Batch, SemiSupervisedMethod
from cps4_monai.methods.teacher_student import BATCH_STATISTICS
from cps4_monai.networks.ema import unwrap
from cps4_monai.networks.mutual_decoders import MutualDecoders

NAMES = ("first", "second", "third")
SHARPENING = ("binary", "softmax")


class MCNet(SemiSupervisedMethod):
    """Three decoders, each of which follows the sharpened predictions of the two others.

    L_sup + weight * ramp * sum over i != j of MSE(p_i, sharpen(p_j)), on labeled slices, whose intensities are changed
    as for all methods, and on the weak views of unlabeled ones. There is no teacher. The first decoder, the network's
    own, is deployed with the encoder.

    Args:
        student: :class:`cps4_monai.networks.MutualDecoders`.
        optimizer: of its parameters.
        unannotated: see :class:`SemiSupervisedMethod`.
        consistency_weight: of the sum over the six pairs.
        ramp_share: share of the run over which that weight grows.
        temperature: of the sharpening, in (0, 1]; the lower, the harder.
        sharpening: "binary", the authors': each class by itself, p^(1/T) / (p^(1/T) + (1 - p)^(1/T)), so that a pixel
            without a probability above 1/2 is told to be of no class. "softmax": p^(1/T), scaled to a sum of 1.
        detach_targets: no gradient flows into the sharpened predictions. The authors let it flow.
        supervision: "ce+dice", "ce" or "dice" (the authors') of each decoder.
        sum_decoders: add the decoders' supervised losses, as the authors do, instead of taking their mean.
        squared_error_classes: the squared error is summed over classes and divided by this. 4 is how many the authors
            had, so that their weight means the same here; None divides by the number of annotated classes.
        batch_statistics: "separate" or "joint" (the authors'), see :class:`TeacherStudent`.

    Raises:
        ValueError: a share outside [0, 1], a temperature outside (0, 1], a divisor that is not positive, a negative
            weight, an unknown `sharpening`, `supervision` or `batch_statistics`.
        TypeError: a student without the three decoders.
    """

    source: ClassVar[str] = "Wu et al., Medical Image Analysis 2022; code read: ycwu1997/MC-Net (MIT)"
    budget_notes = ("three decoders on one encoder", "about twice the computation")

    def __init__(
        self,
        student: MutualDecoders,
        optimizer: Optimizer,
        unannotated: Sequence[int] = (),
        consistency_weight: float = 0.1,
        ramp_share: float = 1.0,
        temperature: float = 0.1,
        sharpening: str = "binary",
        detach_targets: bool = True,
        supervision: str = "ce+dice",
        sum_decoders: bool = False,
        squared_error_classes: float | None = 4.0,
        batch_statistics: str = "separate",
    ) -> None:
        check_supervision(supervision)
        for name, value, known in (
            ("sharpening", sharpening, SHARPENING),
            ("batch_statistics", batch_statistics, BATCH_STATISTICS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {list(known)}")
        if not 0 <= ramp_share <= 1:
            raise ValueError(f"ramp_share is {ramp_share}; expected a share from 0 to 1")
        divisor = 1.0 if squared_error_classes is None else squared_error_classes
        if consistency_weight < 0 or not 0 < temperature <= 1 or divisor <= 0:
            raise ValueError(
                f"consistency_weight is {consistency_weight}, temperature {temperature}, squared_error_classes "
                f"{squared_error_classes}; expected a weight of at least 0, a temperature within (0, 1], and a "
                "positive number"
            )
        if not hasattr(unwrap(student), "others"):
            kind = type(unwrap(student)).__name__
            raise TypeError(f"student is a {kind}; expected cps4_monai.networks.MutualDecoders")
        super().__init__({"student": student}, {"student": optimizer}, "student", unannotated)
        self.consistency_weight = consistency_weight
        self.ramp_share = ramp_share
        self.temperature = temperature
        self.sharpening = sharpening
        self.detach_targets = detach_targets
        self.supervision = supervision
        self.sum_decoders = sum_decoders
        self.squared_error_classes = squared_error_classes
        self.batch_statistics = batch_statistics

    @property
    def student(self) -> nn.Module:
        """The network that is deployed: encoder and first decoder, unwrapped."""
        return self.deployed

    @property
    def ramp(self) -> float:
        """Present factor of the consistency, in (0, 1]."""
        return ramp_up(self.updates, self.share_of_run(self.ramp_share))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``first_labeled_logits``, ``first_unlabeled_logits``, and so on for all three, each (B, C, H, W)."""
        labeled, unlabeled = batch["labeled"]["image"], batch["unlabeled"]["image"]
        network = self.networks["student"]
        if self.batch_statistics == "separate":
            halves = network(labeled, all_decoders=True), network(unlabeled, all_decoders=True)
        else:
            together = network(torch.cat((labeled, unlabeled)), all_decoders=True)
            halves = [x[: len(labeled)] for x in together], [x[len(labeled) :] for x in together]
        kinds = ("labeled_logits", "unlabeled_logits")
        return {
            f"{name}_{kind}": logits
            for kind, half in zip(kinds, halves, strict=True)
            for name, logits in zip(NAMES, half, strict=True)
        }

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``loss_supervised``, and ``loss_consistency`` before its weight."""
        label = batch["labeled"]["label"]
        of_decoders = [
            supervision_loss(outputs[f"{name}_labeled_logits"], label, self.unannotated, self.supervision)
            for name in NAMES
        ]
        supervised = torch.stack(of_decoders).sum() if self.sum_decoders else torch.stack(of_decoders).mean()
        consistency = self._consistency(outputs, label)
        total = supervised + self.ramp * self.consistency_weight * consistency
        return {"loss": total, "loss_supervised": supervised, "loss_consistency": consistency}

    def _consistency(self, outputs: Mapping[str, Tensor], label: Tensor) -> Tensor:
        """Over all unlabeled pixels and the annotated ones of labeled slices."""
        probs = [
            mask_unannotated(
                torch.cat((outputs[f"{name}_labeled_logits"], outputs[f"{name}_unlabeled_logits"])), self.unannotated
            ).softmax(dim=1)
            for name in NAMES
        ]
        annotated = target_codes(label, outputs["first_labeled_logits"], self.unannotated) != IGNORE
        unlabeled = outputs["first_unlabeled_logits"]
        counts = torch.cat((annotated, annotated.new_ones(len(unlabeled), *unlabeled.shape[2:])))
        sources = [p.detach() for p in probs] if self.detach_targets else probs
        targets = [sharpen(p, self.temperature, self.sharpening) for p in sources]
        classes = self.squared_error_classes
        return mutual_error(probs, targets, counts) / (
            probs[0].shape[1] - len(set(self.unannotated)) if classes is None else classes
        )


def sharpen(probs: Tensor, temperature: float, sharpening: str = "binary") -> Tensor:
    """Probabilities moved towards 0 and 1, see :class:`MCNet`; with "binary" they do not add up to 1 over classes.

    Args:
        probs: (B, C, H, W) in [0, 1], float32.
        temperature: in (0, 1].
        sharpening: "binary" or "softmax".
    """
    tiny = torch.finfo(probs.dtype).tiny  # in logarithms, since small powers of probabilities are all zero
    log_p = probs.clamp(min=tiny).log()
    if sharpening == "softmax":
        return (log_p / temperature).softmax(dim=1)
    return ((log_p - (1 - probs).clamp(min=tiny).log()) / temperature).sigmoid()


def mutual_error(probs: Sequence[Tensor], targets: Sequence[Tensor], counts: Tensor) -> Tensor:
    """Squared differences of each prediction and the targets of all others: summed over classes, mean over pixels.

    Args:
        probs: of each decoder, (B, C, H, W).
        targets: of each decoder, alike.
        counts: (B, H, W) bool; the pixels of the mean.

    Returns:
        Scalar, the sum over ordered pairs; 0 where no pixel counts.
    """
    pairs = [(p, t) for i, p in enumerate(probs) for j, t in enumerate(targets) if i != j]
    errors = torch.stack([(p - t).square().sum(dim=1) for p, t in pairs]).sum(dim=0)
    return whole_sum((errors * counts).sum()) / whole_sum(counts.sum()).clamp(min=1)
