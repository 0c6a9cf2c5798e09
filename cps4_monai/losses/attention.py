"""Stage-1 losses on the attention maps: token loss (eq. 1) and pixel loss (eq. 2), after TokenCompose.

Eqs. 1 and 2 are those of Wang et al., "TokenCompose: Text-to-Image Diffusion with Token-level Supervision", CVPR 2024.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.attention_maps import ACTIVATIONS

BINARISATIONS = ("max_pool", "bilinear")
NEGATIVES = ("all", "present")


def masks_and_known_cells(
    label: torch.Tensor, codes: torch.Tensor, grid_size: Sequence[int], binarise: str = "max_pool"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class masks M~ on the grid of the attention maps (row 2 of the settings), and the cells in which they are known.

    A cell is known for a class where its mask is the same whatever the pixels that nobody annotated (255) are: one with
    an annotated pixel of a structure holds it for sure; that a cell does not hold it is known only if all its pixels
    are annotated. A cell without any annotated pixel is known for no class.

    Args:
        label: (B, 1, H, W), class codes of any number type, 255 where nobody annotated.
        codes: (K,) int64, the codes whose masks are wanted.
        grid_size: (h, w).
        binarise: "bilinear", bilinear downscaling, then > 0.5 (paper); "max_pool", a cell holds a structure that has a
            pixel in it, and holds background where more than half of it is background.

    Returns:
        Masks and known cells, both (B, K, h, w) bool.
    """
    size = (int(grid_size[0]), int(grid_size[1]))
    one_hot = (label == codes.view(1, -1, 1, 1)).float()  # (B, K, H, W)
    unknown = (label == NOT_ANNOTATED).float()  # (B, 1, H, W)
    if binarise == "bilinear":
        share, open_share = (
            F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in (one_hot, unknown)
        )
        mask, at_most = share > 0.5, share + open_share > 0.5
        return mask, mask == at_most
    is_background = (codes == 0).view(1, -1, 1, 1)
    touched = F.adaptive_max_pool2d(one_hot, size) > 0
    # Together, because torch's CUDA kernel reads past the end of slices of a volume: one channel, strides of its own.
    share, open_share = F.adaptive_avg_pool2d(torch.cat((one_hot, unknown), dim=1), size).split((len(codes), 1), dim=1)
    mask = torch.where(is_background, share > 0.5, touched)
    at_most = torch.where(is_background, share + open_share > 0.5, touched | (open_share > 0))
    return mask, mask == at_most


class _AttentionMapLoss(nn.Module, ABC):
    """What eqs. 1 and 2 share: the options, the annotated classes and the masks on the grid."""

    def __init__(
        self, binarise: str = "max_pool", activation: str = "sigmoid", unannotated: Sequence[int] = ()
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("binarise", binarise, BINARISATIONS),
            ("activation", activation, ACTIVATIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {list(allowed)}")
        if any(code < 0 for code in unannotated):
            raise ValueError(f"unannotated is {tuple(unannotated)}; expected class codes of 0 or more")
        self.binarise = binarise
        self.activation = activation
        self.unannotated = tuple(sorted(set(unannotated)))

    def forward(self, attention_logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss, of attention logits (B, C, h, w) and class codes (B, 1, H, W)."""
        with torch.autocast(attention_logits.device.type, enabled=False):
            return self.from_masks(*self.prepare(attention_logits, label))

    @abstractmethod
    def from_masks(self, logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The same of prepared logits, masks and known cells, all (B, K, h, w)."""

    def prepare(
        self, attention_logits: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the K annotated classes logits (B, K, h, w), at least float32, masks and known cells, both bool.

        Raises:
            ValueError: shapes that do not belong together, or fewer than two annotated classes under a softmax.
        """
        check_shapes(attention_logits, label)
        count = attention_logits.shape[1]
        kept = [code for code in range(count) if code not in self.unannotated]
        if len(kept) < (2 if self.activation == "softmax" else 1):
            raise ValueError(
                f"{len(kept)} of {count} classes are annotated (unannotated: {self.unannotated}); too few for the "
                f"{self.activation} attention loss: shorten `unannotated`"
            )
        logits = attention_logits if attention_logits.dtype == torch.float64 else attention_logits.float()
        if len(kept) < count:
            logits = torch.cat([logits[:, code : code + 1] for code in kept], dim=1)
        codes = torch.arange(count, device=label.device)
        if len(kept) < count:
            codes = torch.cat([codes[code : code + 1] for code in kept])
        return logits, *masks_and_known_cells(label, codes, logits.shape[2:], self.binarise)


class TokenAttentionLoss(_AttentionMapLoss):
    """Eq. 1: each present class's attention mass should lie within its mask.

    Mean over the N classes present in a slice of (1 - sum_{u in M~_i} A_i(u) / sum_u A_i(u))^2, then over the slices.
    A class is present where its mask on the grid is not empty; a slice without any adds 0. Cells in which a class is
    not known (:func:`masks_and_known_cells`) belong to neither of its sums.

    Args:
        binarise: how masks come to the grid, see :func:`masks_and_known_cells`.
        activation: "sigmoid", each class by itself; "softmax" over the annotated classes.
        unannotated: codes that take no part, not in the softmax either.
    """

    def from_masks(self, logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Scalar in [0, 1] of prepared logits, masks and known cells, all (B, K, h, w)."""
        log_a = F.logsigmoid(logits) if self.activation == "sigmoid" else F.log_softmax(logits, dim=1)
        log_a = log_a.masked_fill(~known, torch.finfo(log_a.dtype).min)
        share = torch.softmax(log_a.flatten(2), dim=2)  # A / sum_u A, with no 0 / 0 where all of A underflows
        inside = (share * masks.flatten(2)).sum(2)  # (B, K)
        present = masks.flatten(2).any(2).to(inside.dtype)
        per_slice = (present * (1 - inside).square()).sum(1) / present.sum(1).clamp(min=1)
        return per_slice.mean()


class PixelAttentionLoss(_AttentionMapLoss):
    """Eq. 2: binary cross-entropy between A_i and M~_i, mean over pixels, then over classes, then over slices.

    The mean over pixels runs over the cells in which a class is known (:func:`masks_and_known_cells`), that over
    classes over those known in some cell; a slice without any adds 0.

    Args:
        binarise: how masks come to the grid, see :func:`masks_and_known_cells`.
        negatives: "all", all annotated classes, absent ones as pure negatives; "present", those present in the slice.
        activation: "sigmoid" or "softmax" over the annotated classes.
        unannotated: codes that take no part, not as negatives and not in the softmax either.
        absent_weight: under "all", weight of an absent class in the mean over classes, a present one having 1.
    """

    def __init__(
        self,
        binarise: str = "max_pool",
        negatives: str = "all",
        activation: str = "sigmoid",
        unannotated: Sequence[int] = (),
        absent_weight: float = 1.0,
    ) -> None:
        super().__init__(binarise, activation, unannotated)
        if negatives not in NEGATIVES:
            raise ValueError(f"negatives is {negatives!r}; expected one of {list(NEGATIVES)}")
        if not absent_weight >= 0:
            raise ValueError(f"absent_weight is {absent_weight}; expected 0 or more, 1 counting all classes alike")
        if negatives == "present" and absent_weight not in (0.0, 1.0):
            raise ValueError(
                f"absent_weight is {absent_weight} and negatives 'present', with which absent classes do not count. "
                "Fix: leave one of them out"
            )
        self.absent_weight = 0.0 if negatives == "present" else absent_weight

    def from_masks(self, logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The same of prepared logits, masks and known cells, all (B, K, h, w)."""
        if self.activation == "sigmoid":
            pixels = F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none")
        else:
            log_a, log_rest = log_softmax_and_complement(logits)
            pixels = -torch.where(masks, log_a, log_rest)
        cells = known.flatten(2).sum(2)  # (B, K)
        per_class = (pixels * known).flatten(2).sum(2) / cells.clamp(min=1)
        present = masks.flatten(2).any(2)
        weight = (torch.where(present, 1.0, self.absent_weight) * (cells > 0)).to(per_class.dtype)
        # A slice that shows none of the classes adds 0 where absent ones count nothing.
        return ((weight * per_class).sum(1) / weight.sum(1).clamp(min=1e-6)).mean()


class AttentionLoss(nn.Module):
    """The loss of stage 1: a weighted sum of eqs. 1 and 2, in the paper (token + pixel) / 2.

    >>> label = torch.zeros(1, 1, 64, 32, dtype=torch.uint8)
    >>> label[..., 16:32, 8:24] = 2
    >>> right = torch.full((1, 3, 8, 4), -9.0)
    >>> right[0, 0], right[0, 0, 2:4, 1:3], right[0, 2, 2:4, 1:3] = 9.0, -9.0, 9.0
    >>> round(AttentionLoss()(right, label).item(), 3), round(AttentionLoss()(-right, label).item(), 1)
    (0.0, 5.0)

    Args:
        token_weight: of eq. 1.
        pixel_weight: of eq. 2.
        binarise: how masks come to the grid, "max_pool" or "bilinear" (row 2 of the settings).
        negatives: "all" or "present", the classes of eq. 2 (row 3).
        activation: "sigmoid" or "softmax" (row 1).
        unannotated: codes in view but never labeled; they take no part.
        absent_weight: of classes that a slice does not show, in eq. 2 under "all"; present ones have 1.

    Raises:
        ValueError: an unknown option, or a negative weight.
    """

    source: ClassVar[str] = "Pan et al., arXiv 2606.15802, after TokenCompose (Wang et al., CVPR 2024)"

    def __init__(
        self,
        token_weight: float = 0.5,
        pixel_weight: float = 0.5,
        binarise: str = "max_pool",
        negatives: str = "all",
        activation: str = "sigmoid",
        unannotated: Sequence[int] = (),
        absent_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if token_weight < 0 or pixel_weight < 0:
            raise ValueError(f"token_weight is {token_weight}, pixel_weight {pixel_weight}; expected 0 or more")
        self.token_weight = token_weight
        self.pixel_weight = pixel_weight
        self.token = TokenAttentionLoss(binarise, activation, unannotated)
        self.pixel = PixelAttentionLoss(binarise, negatives, activation, unannotated, absent_weight)

    def forward(self, attention_logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss, of attention logits (B, C, h, w) and class codes (B, 1, H, W)."""
        return self.parts(attention_logits, label)["loss"]

    def parts(self, attention_logits: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scalars ``loss`` (weighted), ``token`` (eq. 1) and ``pixel`` (eq. 2)."""
        with torch.autocast(attention_logits.device.type, enabled=False):
            prepared = self.token.prepare(attention_logits, label)
            token, pixel = self.token.from_masks(*prepared), self.pixel.from_masks(*prepared)
            return {"loss": self.token_weight * token + self.pixel_weight * pixel, "token": token, "pixel": pixel}


def log_softmax_and_complement(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p and log(1 - p) of a softmax over dim 1 of (B, K, h, w), K >= 2, finite also where p rounds to 1.

    For the largest class 1 - p is the sum of the others; for all others p <= 1/2 and log1p is exact.
    """
    log_p = F.log_softmax(logits, dim=1)
    largest = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(1, keepdim=True), True)
    others = torch.logsumexp(log_p.masked_fill(largest, -torch.inf), dim=1, keepdim=True)
    p_small = log_p.exp().masked_fill(largest, 0.0)  # masked before log1p: where() alone lets NaN gradients through
    return log_p, torch.where(largest, others, torch.log1p(-p_small))


def check_shapes(attention_logits: torch.Tensor, label: torch.Tensor) -> None:
    """Holds attention logits (B, C, h, w) and label (B, 1, H, W) against each other.

    Raises:
        ValueError: they do not belong together.
    """
    if (
        attention_logits.ndim != 4
        or label.ndim != 4
        or label.shape[1] != 1
        or label.shape[0] != attention_logits.shape[0]
    ):
        raise ValueError(
            f"attention_logits is {tuple(attention_logits.shape)} and label {tuple(label.shape)}; expected "
            "(B, C, h, w) and (B, 1, H, W) of one B, the label as class codes, not one-hot"
        )
    if label.shape[2] < attention_logits.shape[2] or label.shape[3] < attention_logits.shape[3]:
        raise ValueError(
            f"label is {tuple(label.shape)}, smaller than the grid {tuple(attention_logits.shape[2:])} of the "
            "attention maps; pass it at the size of the image"
        )
