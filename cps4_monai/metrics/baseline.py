"""The trivial baseline: the label that most labeled subjects have at a place, whatever the image shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cps4_monai.anatomy import NOT_ANNOTATED


def _nearest_slices(source: int, target: int) -> torch.Tensor:
    """Index of the source slice at the relative position of each target slice, both slabs centred on each other."""
    return ((torch.arange(target) + 0.5) * source / target).floor().long().clamp_(0, source - 1)


def mean_label_map(labels: Sequence[torch.Tensor], num_classes: int, num_slices: int | None = None) -> torch.Tensor:
    """Majority vote over the subjects, pixel by pixel, on the common slice grid.

    Subjects vote where they are annotated (a label of 255 is no vote); without any vote a pixel is background.

    Subjects with other numbers of slices are sampled at the same relative position from left to right. Ties go to the
    lowest code, so to the background where it is among them.

    Args:
        labels: one label map (D_i, H, W) per labeled subject, integers from 0 to C-1, H and W the same for all.
        num_classes: C, background included.
        num_slices: slices of the result; None: the median of the subjects'.

    Returns:
        Label map (num_slices, H, W), uint8: the prediction for every scan.

    Raises:
        ValueError: no subject, other in-plane sizes, or values that are no class.
    """
    if not labels:
        raise ValueError("mean_label_map needs at least one labeled subject, got none")
    sizes = {tuple(label.shape[-2:]) for label in labels}
    if len(sizes) > 1 or any(label.ndim != 3 for label in labels):
        raise ValueError(
            f"label maps have the shapes {[tuple(label.shape) for label in labels]}; expected (D_i, H, W) with one H, W"
        )
    voting = [label.long()[label.long() != NOT_ANNOTATED] for label in labels]
    if any(len(codes) and (int(codes.max()) >= num_classes or int(codes.min()) < 0) for codes in voting):
        raise ValueError(f"label maps hold values outside 0 to {num_classes - 1}; check num_classes")
    depth = num_slices or sorted(label.shape[0] for label in labels)[len(labels) // 2]
    aligned = torch.stack([label[_nearest_slices(label.shape[0], depth).to(label.device)] for label in labels])
    return torch.stack([_vote(aligned[:, index], num_classes) for index in range(depth)])


def _vote(votes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(N, H, W) -> (H, W), uint8: the most frequent class; one slice at a time keeps the memory at C x H x W."""
    counts = torch.zeros((num_classes, *votes.shape[1:]), dtype=torch.int32, device=votes.device)
    codes = votes.long()
    given = codes != NOT_ANNOTATED
    counts.scatter_add_(0, codes * given, given.int())
    return counts.argmax(dim=0).to(torch.uint8)


def at_depth(label_map: torch.Tensor, num_slices: int) -> torch.Tensor:
    """The mean label map (D, H, W) sampled at the relative positions of a scan with ``num_slices`` slices."""
    return label_map[_nearest_slices(label_map.shape[0], num_slices).to(label_map.device)]
