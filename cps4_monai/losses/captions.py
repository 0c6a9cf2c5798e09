"""What stands in place of reports: the caption of a labeled slice is the prompts of the classes that its label shows.

Whole slices and patches that nobody annotated are no evidence of anything: pixels of `NOT_ANNOTATED` or of a class that
is never labeled belong to no class, cells of the grid that hold nothing else take no part, and neither does a slice
without any annotated pixel. The caption of a slice that is annotated in part names what is known to be in it. No
function waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.losses.semi_supervised import mask_unannotated

# Logit of what takes no part: exp() of it is exactly 0 in float32.
NEVER = -1e4


def annotated_classes(num_classes: int, unannotated: Sequence[int], device: torch.device) -> Tensor:
    """(C,) bool: which classes are ever labeled.

    Raises:
        ValueError: codes outside 1 to C-1.
    """
    return mask_unannotated(torch.zeros(1, num_classes, 1, 1, device=device), unannotated)[0, :, 0, 0] == 0


def occurrence(label: Tensor, num_classes: int, grid_size: Sequence[int], unannotated: Sequence[int] = ()) -> Tensor:
    """Which annotated class occurs in which cell of the grid.

    ``.flatten(2).any(2)`` of it is the caption of each slice, ``.any(1)`` the cells that somebody annotated.

    Args:
        label: (B, 1, H, W), class codes of any number type; other values belong to no class.
        num_classes: C.
        grid_size: (h, w).
        unannotated: codes that are never labeled.

    Returns:
        (B, C, h, w) bool.

    Raises:
        ValueError: codes outside 1 to C-1.
    """
    kept = annotated_classes(num_classes, unannotated, label.device).view(1, -1, 1, 1)
    codes = torch.arange(num_classes, device=label.device).view(1, -1, 1, 1)
    pixels = ((label == codes) & kept).float()  # (B, C, H, W)
    return F.adaptive_max_pool2d(pixels, (int(grid_size[0]), int(grid_size[1]))) > 0


def mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the last axis of those that count; 0 where none does."""
    return values.masked_fill(~counted, 0.0).sum(-1) / counted.sum(-1).clamp(min=1)


def caption_contrast(image_to_caption: Tensor, caption_to_image: Tensor, captions: Tensor) -> Tensor:
    """InfoNCE between the slices of a batch and their captions, both directions, mean of the two.

    Slices that show the same classes have the same caption; each of these is as right as the slice's own, so the target
    gives equal mass to all of them. With ones on the diagonal alone they would be false negatives.

    Args:
        image_to_caption: (B, B) logits of slice i (row) for caption j, from which the slice chooses its caption.
        caption_to_image: (B, B) logits of the same pairs in the same places, from which the caption chooses its slice.
        captions: (B, C) bool, the classes of each; a slice whose caption is empty takes no part.

    Returns:
        Scalar, float32; 0 where no slice takes part.
    """
    counted = captions.any(1)
    same = (captions[:, None] == captions[None]).all(2) & counted
    target = same.float() / same.sum(1, keepdim=True).clamp(min=1)
    rows = [logits.float().masked_fill(~counted, NEVER) for logits in (image_to_caption, caption_to_image.T)]
    both = torch.stack([-(target * logits.log_softmax(1)).sum(1) for logits in rows])
    return mean_where(both, counted).mean()
