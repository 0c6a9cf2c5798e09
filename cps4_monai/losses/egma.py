"""Stage-1 loss of the providers `egma_mask_gaze` and `egma_no_gaze`: alignment of patches and prompts (EGMA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from cps4_monai.logits import NEVER
from cps4_monai.losses.attention import BINARISATIONS, check_shapes, masks_and_known_cells
from cps4_monai.losses.captions import caption_contrast, mean_where, occurrence


class EGMALoss(nn.Module):
    """EGMA's objective on class prompts: L_fine + gaze_ratio * L_gaze of attention logits S (slice, class, cell).

    The sentences of a slice are the prompts of the classes that its label shows. L_fine is :func:`fine_contrast`.
    EGMA's L_gaze says which patches a reader looked at while speaking a sentence; there is no gaze here, and the
    label's mask of the class stands for it:
    ``sentence_weight * mean_c mlce(S_c., cells of c) + (1 - sentence_weight) * mean_u mlce(S_.u, classes in u)``, over
    the slice's sentences c and its annotated cells u, mean over the slices. A cell in which a class is not known
    (:func:`cps4_monai.losses.attention.masks_and_known_cells`) is neither positive nor negative for it. The masks say
    far more than gaze ever did, and make the loss a sibling of eqs. 1 and 2. With ``gaze_ratio=0``, which is what the
    authors' committed configuration sets, no mask enters, and the bias b of the logits gets no gradient.

    Args:
        gaze_ratio: of L_gaze; 0: it is not computed.
        sentence_weight: share of its first part, in [0, 1]; 0.8 in the authors' code.
        binarise: how masks come to the grid, as in :class:`cps4_monai.losses.attention.AttentionLoss`: so that the two
            stages 1 differ in the loss alone, background holds the cells that are mostly background.
        unannotated: codes in view but never labeled; they take no part.

    Raises:
        ValueError: a negative ratio or code, a weight outside [0, 1], an unknown way to binarise.
    """

    source: ClassVar[str] = "Ma et al., EGMA, NeurIPS 2024 (the committed configuration is not that of the paper's run)"

    def __init__(
        self,
        gaze_ratio: float = 1.0,
        sentence_weight: float = 0.8,
        binarise: str = "max_pool",
        unannotated: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if not gaze_ratio >= 0 or not 0 <= sentence_weight <= 1:
            raise ValueError(
                f"gaze_ratio is {gaze_ratio}, sentence_weight {sentence_weight}; expected 0 or more, and 0 to 1"
            )
        if binarise not in BINARISATIONS:
            raise ValueError(f"binarise is {binarise!r}; expected one of {list(BINARISATIONS)}")
        if any(code < 0 for code in unannotated):
            raise ValueError(f"unannotated is {tuple(unannotated)}; expected class codes of 0 or more")
        self.gaze_ratio, self.sentence_weight, self.binarise = gaze_ratio, sentence_weight, binarise
        self.unannotated = tuple(sorted(set(unannotated)))

    def forward(self, attention_logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss, of attention logits (B, C, h, w) and class codes (B, 1, H, W)."""
        return self.parts(attention_logits, label)["loss"]

    def parts(self, attention_logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Scalars ``loss``, ``fine`` and, where it counts, ``gaze`` before its ratio.

        Raises:
            ValueError: shapes that do not belong together, or codes outside 1 to C-1.
        """
        check_shapes(attention_logits, label)
        with torch.autocast(attention_logits.device.type, enabled=False):
            shown = occurrence(label, attention_logits.shape[1], attention_logits.shape[2:], self.unannotated)
            captions, cells = shown.flatten(2).any(2), shown.any(1).flatten(1)
            similarity = attention_logits.float().flatten(2)  # (B, C, h * w)
            fine = fine_contrast(similarity, captions, cells)
            if self.gaze_ratio == 0:
                return {"loss": fine, "fine": fine}
            gaze = self._gaze(similarity, *self._masks(label, attention_logits), captions, cells)
            return {"loss": fine + self.gaze_ratio * gaze, "fine": fine, "gaze": gaze}

    def _masks(self, label: Tensor, attention_logits: Tensor) -> tuple[Tensor, Tensor]:
        codes = torch.arange(attention_logits.shape[1], device=label.device)
        masks, known = masks_and_known_cells(label, codes, attention_logits.shape[2:], self.binarise)
        return masks.flatten(2), known.flatten(2)

    def _gaze(self, similarity: Tensor, masks: Tensor, known: Tensor, captions: Tensor, cells: Tensor) -> Tensor:
        """L_gaze of S, masks and where they are known (B, C, P), in sentences (B, C) and cells (B, P) that count."""
        counted = captions[:, :, None] & cells[:, None] & known
        by_sentence = mean_where(mlce(similarity, masks, counted), captions)  # (B,)
        by_cell = mean_where(mlce(*(each.transpose(1, 2) for each in (similarity, masks, counted))), cells)
        per_slice = self.sentence_weight * by_sentence + (1 - self.sentence_weight) * by_cell
        return mean_where(per_slice, captions.any(1))


def fine_contrast(similarity: Tensor, captions: Tensor, cells: Tensor) -> Tensor:
    """L_fine: every slice of a batch against every caption, by the best sentence of a patch and the best patch of one.

    Slice i for caption j is, seen from the image, the mean over its cells of the largest S among the sentences of j;
    seen from the text, the mean over these sentences of the largest S among its cells. Sentences that are not in the
    caption never take part in a maximum.

    Args:
        similarity: S (B, C, P).
        captions: (B, C) bool, the classes of each.
        cells: (B, P) bool, the cells that count.

    Returns:
        Scalar, see :func:`cps4_monai.losses.captions.caption_contrast`.
    """
    sentences = similarity[:, None].masked_fill(~captions[None, :, :, None], NEVER)  # (slice, caption, C, P)
    image_to_caption = mean_where(sentences.amax(2), cells[:, None])
    best_cell = similarity.masked_fill(~cells[:, None], NEVER).amax(2)  # (slice, C)
    caption_to_image = mean_where(best_cell[:, None], captions[None])
    return caption_contrast(image_to_caption, caption_to_image, captions)


def mlce(logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Multi-label cross-entropy along the last axis: ``log(1 + sum_neg exp(z)) + log(1 + sum_pos exp(-z))``.

    Args:
        logits: z (..., N).
        positive: (..., N) bool, which are to be large.
        counted: (..., N) bool; the others are neither positive nor negative.

    Returns:
        (...), 0 or more.
    """
    zero = torch.zeros_like(logits[..., :1])
    negatives = torch.cat([zero, logits.masked_fill(positive | ~counted, NEVER)], dim=-1)
    positives = torch.cat([zero, (-logits).masked_fill(~positive | ~counted, NEVER)], dim=-1)
    return negatives.logsumexp(-1) + positives.logsumexp(-1)
