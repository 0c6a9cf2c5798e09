"""Batches of slices without labels, for what learns from images alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

from cps4_monai.data.datasets import SliceDataset
from cps4_monai.data.epoch_loader import EpochLoader


class ImageLoader(EpochLoader):
    """Shuffled slices: ``image`` (B, 1, H, W), and what else the items hold; labels are not asked for.

    Args:
        dataset: slices, labeled or not.
        batch_size: slices per batch.
        **passes: `seed`, `num_workers`, `iterations_per_epoch`, `pin_memory`, `rank` and `world_size` of
            :class:`EpochLoader`.

    Raises:
        ValueError: as :class:`EpochLoader`.
    """

    def __init__(self, dataset: SliceDataset, batch_size: int = 16, **passes: Any) -> None:
        super().__init__({"image": dataset}, {"image": batch_size}, "image", _items, **passes)


def _items(items: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate([item for _, item in items])
    return batch
