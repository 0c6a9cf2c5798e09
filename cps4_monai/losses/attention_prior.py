"""The attention maps as a prior on the teacher's classes: one target for unlabeled slices out of both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.attention_maps import ACTIVATIONS
from cps4_monai.losses.semi_supervised import attention_maps, check_same_slices, mask_unannotated


class AttentionPrior:
    """Target for unlabeled slices: teacher's probabilities times the upsampled attention maps, made to sum up to one.

    p(c) is proportional to p_t(c) * max(A_c, floor)^exponent. The maps are too coarse to be outlines, but they name the
    level; the teacher outlines, but may name a neighbour. With `groups` the product only moves probability within a
    group of classes, and what the teacher gives to the whole group stays: vertebrae and discs being groups, the teacher
    decides what is bone, disc and background, and both together decide which level it is.

    Args:
        activation: "sigmoid" or "softmax" over the annotated classes, as in stage 1.
        exponent: of the maps; 0 leaves the teacher's probabilities as they are.
        floor: least value of a map, in (0, 1), so that no map ever rules out a class.
        groups: lists of class codes that share no code; a code in none of them is a group by itself. None: all classes
            are one group.

    Raises:
        ValueError: an unknown activation, a number out of range, a code in two groups.
    """

    def __init__(
        self,
        activation: str = "sigmoid",
        exponent: float = 1.0,
        floor: float = 0.01,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; expected one of {list(ACTIVATIONS)}")
        if exponent < 0:
            raise ValueError(f"exponent is {exponent}; expected 0 or more")
        if not 0 < floor < 1:
            raise ValueError(f"floor is {floor}; expected a value of A above 0 and below 1, such as 0.01")
        listed = [code for group in groups or () for code in group]
        if len(set(listed)) < len(listed):
            raise ValueError(f"groups are {groups}; a code stands twice, expected groups that share none")
        self.activation = activation
        self.exponent = exponent
        self.floor = floor
        self.groups = None if groups is None else tuple(tuple(int(code) for code in group) for group in groups)

    @torch.no_grad()
    def __call__(self, teacher_logits: Tensor, attention_logits: Tensor, unannotated: Sequence[int] = ()) -> Tensor:
        """The target.

        Args:
            teacher_logits: (B, C, H, W).
            attention_logits: (B, C, h, w) of the same slices.
            unannotated: codes in view but never labeled; their probability is 0.

        Returns:
            (B, C, H, W) float32 without gradient: class weights that sum up to 1.

        Raises:
            ValueError: shapes that do not belong together, or codes outside the classes.
        """
        check_same_slices(attention_logits, teacher_logits, "teacher_logits")
        with torch.autocast(teacher_logits.device.type, enabled=False):
            teacher = mask_unannotated(teacher_logits, unannotated).softmax(dim=1)
            attention = attention_maps(attention_logits, self.activation, unannotated)
            prior = F.interpolate(attention, size=teacher.shape[2:], mode="bilinear", align_corners=False)
            product = teacher * prior.clamp(min=self.floor).pow(self.exponent)
            return self._within_groups(product, teacher)

    def _within_groups(self, product: Tensor, teacher: Tensor) -> Tensor:
        """The product (B, C, H, W), scaled in each group to the probability that the teacher gives to it."""
        tiny = torch.finfo(product.dtype).tiny
        if self.groups is None:
            return product / product.sum(dim=1, keepdim=True).clamp(min=tiny)
        together = _membership(product.shape[1], self.groups, product.device)  # (C, C)
        ours = torch.einsum("ij,bjhw->bihw", together, product)
        theirs = torch.einsum("ij,bjhw->bihw", together, teacher)
        return product * (theirs / ours.clamp(min=tiny))


@lru_cache(maxsize=16)
def _membership(num_classes: int, groups: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """(C, C), 1 where two classes are of one group; kept, because copying it to the device would wait for it."""
    outside = [code for group in groups for code in group if not 0 <= code < num_classes]
    if outside:
        raise ValueError(f"groups name the codes {outside}; expected 0 to {num_classes - 1}")
    with torch.inference_mode(False):
        together = torch.eye(num_classes)
        for group in groups:
            for code in group:
                together[code, list(group)] = 1.0
        return together.to(device)
