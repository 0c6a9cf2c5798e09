"""The network over a scan's slices: labels on its grid, and class scores kept only about what is not background."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

MARGIN = 3  # pixels about the foreground: interpolating its border needs one, a renamed border two more
EXCLUDED = -1e4  # a logit that no class can win with, finite so that it can be interpolated


@dataclass(frozen=True)
class SliceCrop:
    """Class scores of part of a slice.

    Attributes:
        top: row of its first pixel.
        left: column of its first pixel.
        logits: (C, h, w) float32.
    """

    top: int
    left: int
    logits: torch.Tensor


@dataclass(frozen=True)
class ScanScores:
    """What the network says of a scan, on its own grid.

    Attributes:
        labels: (D, H, W) uint8, the argmax.
        crops: for each slice its scores about the foreground, None for a slice without any.
        num_classes: C.
    """

    labels: np.ndarray
    crops: tuple[SliceCrop | None, ...]
    num_classes: int

    def slices(self) -> Iterator[torch.Tensor]:
        """D slices (C, H, W), one at a time; outside the crops, where all is background, they are zero."""
        height, width = self.labels.shape[1:]
        for crop in self.crops:
            full = torch.zeros((self.num_classes, height, width))
            if crop is not None:
                rows, columns = crop.logits.shape[1:]
                full[:, crop.top : crop.top + rows, crop.left : crop.left + columns] = crop.logits.cpu()
            yield full


def run_network(
    network: Callable[[torch.Tensor], torch.Tensor],
    slices: torch.Tensor,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    unannotated: Sequence[int] = (),
) -> ScanScores:
    """Runs the network over batches of slices.

    Args:
        network: (B, 1, H, W) to logits (B, C, H, W).
        slices: (D, H, W) float32, on the CPU.
        device: where the network is.
        batch_size: slices at a time; halved where the device's memory does not hold them.
        unannotated: codes that can never win.

    Raises:
        ValueError: logits that are not finite, or of another size than the slices.
        RuntimeError: the device's memory does not even hold one slice.
    """
    labels = np.zeros(tuple(slices.shape), dtype=np.uint8)
    crops: list[SliceCrop | None] = []
    num_classes, start = 0, 0
    with torch.no_grad():
        while start < len(slices):
            batch = slices[start : start + batch_size, None].to(device, memory_format=torch.channels_last)
            try:
                logits = network(batch).float()
            except torch.OutOfMemoryError as error:
                if batch_size == 1:
                    raise RuntimeError(
                        f"the memory of {device} does not hold one slice of {tuple(slices.shape[1:])} pixels; use "
                        "--device cpu"
                    ) from error
                batch_size = max(1, batch_size // 2)
                continue
            num_classes = _check(logits, batch)
            part = scores_of(logits, unannotated)
            labels[start : start + len(part.labels)] = part.labels
            crops += part.crops
            start += len(part.labels)
    return ScanScores(labels, tuple(crops), num_classes)


def scores_of(logits: torch.Tensor, unannotated: Sequence[int] = ()) -> ScanScores:
    """Labels and crops of logits that are there already.

    Args:
        logits: (D, C, H, W) float, any device; those of unannotated classes are overwritten.
        unannotated: codes that can never win.
    """
    logits[:, list(unannotated)] = EXCLUDED
    winners = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
    crops = tuple(_crop(one, winner) for one, winner in zip(logits, winners, strict=True))
    return ScanScores(winners, crops, logits.shape[1])


def _check(logits: torch.Tensor, batch: torch.Tensor) -> int:
    if logits.ndim != 4 or logits.shape[0] != batch.shape[0] or logits.shape[2:] != batch.shape[2:]:
        raise ValueError(
            f"the network made {tuple(logits.shape)} of {tuple(batch.shape)}; expected logits (B, C, H, W) of the same "
            "height and width: use the network_def of the weights"
        )
    if not torch.isfinite(logits).all():
        raise ValueError("the network's output is not finite; the weights are damaged: download or export them again")
    return logits.shape[1]


def _crop(logits: torch.Tensor, winner: np.ndarray) -> SliceCrop | None:
    rows, columns = (np.flatnonzero(winner.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, left = max(0, int(rows[0]) - MARGIN), max(0, int(columns[0]) - MARGIN)
    part = logits[:, top : int(rows[-1]) + MARGIN + 1, left : int(columns[-1]) + MARGIN + 1]
    return SliceCrop(top, left, part.clone(memory_format=torch.contiguous_format))
