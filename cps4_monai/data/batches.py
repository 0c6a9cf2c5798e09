"""Batches of labeled and unlabeled slices together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

from cps4_monai.data.datasets import SliceDataset
from cps4_monai.data.epoch_loader import EpochLoader


class SemiSupervisedLoader(EpochLoader):
    """Batches ``{"labeled": {...}, "unlabeled": {...}}``; an epoch is one pass over the unlabeled slices.

    Labeled slices cycle, freshly shuffled each round. Without unlabeled slices an epoch is one pass over the labeled
    ones, and batches have no "unlabeled".

    Args:
        labeled: labeled slices.
        unlabeled: unlabeled slices, or None.
        batch_size_labeled: labeled slices per batch.
        batch_size_unlabeled: unlabeled slices per batch.
        **passes: `seed`, `num_workers`, `iterations_per_epoch`, `pin_memory`, `rank` and `world_size` of
            :class:`EpochLoader`.

    Raises:
        ValueError: ``labeled`` without labels, and as :class:`EpochLoader`.
    """

    def __init__(
        self,
        labeled: SliceDataset,
        unlabeled: SliceDataset | None = None,
        batch_size_labeled: int = 4,
        batch_size_unlabeled: int = 4,
        **passes: Any,
    ) -> None:
        if not labeled.labeled:
            raise ValueError("the labeled data set gives no labels; make it with labeled=True")
        sources, sizes, pace = {"labeled": labeled}, {"labeled": batch_size_labeled}, "labeled"
        if unlabeled is not None:
            sources["unlabeled"], sizes["unlabeled"], pace = unlabeled, batch_size_unlabeled, "unlabeled"
        super().__init__(sources, sizes, pace, _by_source, **passes)


def _by_source(items: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, item in items:
        groups.setdefault(name, []).append(item)
    return {name: default_collate(group) for name, group in groups.items()}
