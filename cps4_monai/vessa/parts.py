"""What passes between the parts of the assistant, and the protocols of the two that can be exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """Slices that are asked about.

    Attributes:
        image: (B, 1, H, W) in [0, 1].
        tokens: patch tokens of the assistant's ViT, (B, D, h, w).
    """

    image: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Templates:
    """Labeled slices beside each picture, best match first; their order means nothing to a mask decoder.

    Attributes:
        images: (B, n, 1, H, W) in [0, 1].
        labels: (B, n, 1, H, W) uint8 codes; 255 is a pixel that nobody annotated.
        tokens: patch tokens of the assistant's ViT, (B, n, D, h, w).
        cells: share of each class in each patch, (B, n, C, h, w) in [0, 1].
        there: (B,) bool; False where a picture is asked about without a template.
    """

    images: Tensor
    labels: Tensor
    tokens: Tensor
    cells: Tensor
    there: Tensor


@dataclass(frozen=True)
class Feedback:
    """Prompts made of what somebody else sees in the pictures. Coordinates are shares of the picture, x before y.

    Attributes:
        masks: (B, C, H, W) in [0, 1].
        boxes: left, top, right and bottom of each class, (B, C, 4) in [0, 1].
        points: a place within each class, (B, C, 2) in [0, 1].
        mask_given: (B, C) bool: the class is seen, and its mask is the prompt of this picture.
        box_given: (B, C) bool, likewise.
        point_given: (B, C) bool, likewise.
    """

    masks: Tensor
    boxes: Tensor
    points: Tensor
    mask_given: Tensor
    box_given: Tensor
    point_given: Tensor


class ReferenceEncoder(Protocol):
    """Reads picture, template and class texts, and answers with one ``<SEG>`` embedding per class.

    Attributes:
        arguments: plain values of which, with the state dict, it is built again.
        waits_for_device: whether a call must wait for the device.
    """

    arguments: dict[str, Any]
    waits_for_device: bool

    def __call__(self, picture: Picture, templates: Templates, prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        """<SEG> embeddings (B, C, width), and the cross-entropy of its text where it trains one.

        Args:
            picture: what is asked about.
            templates: labeled slices beside it.
            prompts: embeddings of the class prompts, (C, D_text).
        """
        ...


class MaskDecoder(Protocol):
    """Masks of all classes in one pass.

    One that starts from trained weights has them in ``pretrained_parameters``, too: they learn at the rate of these.

    Attributes:
        arguments: plain values of which, with the state dict, it is built again.
        waits_for_device: whether a call must wait for the device.
    """

    arguments: dict[str, Any]
    waits_for_device: bool

    def __call__(self, picture: Picture, templates: Templates, seg: Tensor, feedback: Feedback) -> Tensor:
        """Logits (B, C, h', w') over a grid of its own that spans the whole picture.

        Args:
            picture: what is asked about.
            templates: what its memory is made of.
            seg: (B, C, width), of the reference encoder.
            feedback: further prompts; classes without one are asked for by `seg` alone.
        """
        ...
