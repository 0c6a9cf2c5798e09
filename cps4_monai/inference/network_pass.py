"""The network over a scan's slices: labels on its grid, and class scores kept only about what is not background."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from cps4_monai.data.scan_labels import ScanScores, SliceCrop, scores_of


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
                if len(batch) == 1:
                    raise RuntimeError(
                        f"the memory of {device} does not hold one slice of {tuple(slices.shape[1:])} pixels; use "
                        "--device cpu"
                    ) from error
                batch_size = len(batch) // 2  # of those that were tried: a scan may have fewer than asked for
                continue
            num_classes = _check(logits, batch)
            part = scores_of(logits, unannotated)
            labels[start : start + len(part.labels)] = part.labels
            crops += part.crops
            start += len(part.labels)
    return ScanScores(labels, tuple(crops), num_classes)


def _check(logits: torch.Tensor, batch: torch.Tensor) -> int:
    if logits.ndim != 4 or logits.shape[0] != batch.shape[0] or logits.shape[2:] != batch.shape[2:]:
        raise ValueError(
            f"the network made {tuple(logits.shape)} of {tuple(batch.shape)}; expected logits (B, C, H, W) of the same "
            "height and width: use the network_def of the weights"
        )
    if not torch.isfinite(logits).all():
        raise ValueError("the network's output is not finite; the weights are damaged: download or export them again")
    return logits.shape[1]
