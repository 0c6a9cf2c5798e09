"""Batches of slices without labels, for what learns from images alone."""

from __future__ import annotations

from typing import Any

from cps4_monai.data.batches import StageOneLoader
from cps4_monai.data.datasets import SliceDataset


class ImageLoader(StageOneLoader):
    """Shuffled slices: ``image`` (B, 1, H, W), and what else the items hold; labels are not asked for.

    Args:
        dataset: slices, labeled or not.
        batch_size: slices per batch.
        settings: further arguments of :class:`cps4_monai.data.batches.StageOneLoader`.

    Raises:
        ValueError: as there.
    """

    source = "images"

    def __init__(self, dataset: SliceDataset, batch_size: int = 16, **settings: Any) -> None:
        super().__init__(dataset, batch_size, **settings)
