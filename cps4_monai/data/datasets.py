"""Cached slices and volumes as map-style data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cps4_monai.data.cache import CachedSlices, SliceCache
from cps4_monai.data.entries import Entry
from cps4_monai.scan_names import subject_of


class _CachedScans(Dataset[dict[str, Any]]):
    """What both data sets are made of: entries, and where their slices lie in the cache.

    Raises:
        ValueError: no entries, or labels asked for that an entry does not have.
        InvalidVolumeError: a file that cannot be used.
    """

    def __init__(
        self,
        data: Sequence[Entry | Mapping[str, Any]],
        cache: SliceCache,
        labeled: bool = True,
        workers: int | None = None,
    ) -> None:
        self.entries = _entries(data, labeled)
        cache.prepare(self.entries, labels=labeled, workers=workers)
        self.cache, self.labeled = cache, labeled
        self.images = [cache.image(entry.image) for entry in self.entries]
        labels = [(entry.label, entry.image) for entry in self.entries if labeled and entry.label is not None]
        self.labels = [cache.label(*pair) for pair in labels] if labeled else None


class SliceDataset(_CachedScans):
    """All sagittal slices of a list of volumes.

    An item holds ``image`` (1, H, W) float32 in [0, 1], ``label`` (1, H, W) uint8 where labeled, ``subject``,
    ``slice_index`` within its volume and ``slice_id`` within this data set. Unlabeled, no label file is ever opened,
    even where one exists.

    Args:
        data: volumes, with ``image``, ``label`` and ``subject``; or dicts with the paths ``image`` and ``label``, which
            is what MONAI Label hands over.
        cache: gives the slices; what is missing is made here.
        transform: takes and returns such an item; reseeded for each draw (:meth:`draw`) where it is a MONAI
            ``Randomizable``.
        labeled: give labels, too.
        with_grid: add ``grid`` (H, W, 2) float32: for each pixel of the augmented slice, the place (x, y) in the
            unaugmented one it was taken from, in [-1, 1] as ``grid_sample`` with ``align_corners=False`` reads it.
        workers: threads of the first pass.

    Raises:
        ValueError: no entries, or labels asked for that an entry does not have.
        InvalidVolumeError: a file that cannot be used.
    """

    def __init__(
        self,
        data: Sequence[Entry | Mapping[str, Any]],
        cache: SliceCache,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        labeled: bool = True,
        with_grid: bool = False,
        workers: int | None = None,
    ) -> None:
        super().__init__(data, cache, labeled, workers)
        self.transform, self.with_grid = transform, with_grid
        self._ends = np.cumsum([image.shape[0] for image in self.images])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Entry and slice within it of item ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index}; expected 0 to {len(self) - 1}")
        volume = int(np.searchsorted(self._ends, index, side="right"))
        return volume, index - int(self._ends[volume] - self.images[volume].shape[0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume, slice_index = self.place(index)
        item: dict[str, Any] = {
            "image": torch.from_numpy(self.images[volume].slice(slice_index).astype(np.float32))[None],
            "subject": self.entries[volume].subject,
            "slice_index": slice_index,
            "slice_id": index,
        }
        if self.labels is not None:
            item["label"] = torch.from_numpy(self.labels[volume].slice(slice_index))[None]
        if self.transform is not None:
            item = self.transform(item)
        return self._with_grid(item)

    def draw(self, index: int, seed: int) -> dict[str, Any]:
        """Item ``index``, its random transforms drawn from ``seed`` alone."""
        set_state = getattr(self.transform, "set_random_state", None)
        if set_state is not None:
            set_state(seed=seed)
        return self[index]

    def _with_grid(self, item: dict[str, Any]) -> dict[str, Any]:
        if not self.with_grid:
            item.pop("grid", None)
        elif "grid" not in item:
            height, width = item["image"].shape[-2:]
            identity = torch.eye(2, 3)[None]
            item["grid"] = torch.nn.functional.affine_grid(identity, [1, 1, height, width], align_corners=False)[0]
        return item


class VolumeDataset(_CachedScans):
    """Whole volumes on the network's grid, for validation.

    An item holds ``image`` (1, D, H, W) float32, ``label`` (1, D, H, W) uint8 where the entry has one, ``subject``,
    ``spacing_mm`` (3,) float32 along D, H and W, and ``view`` (4,) int64: first and end row, first and end column that
    show the scan.

    Args:
        data: volumes, see :class:`SliceDataset`.
        cache: gives the slices; what is missing is made here.
        labeled: False leaves label files unopened.
        workers: threads of the first pass.

    Raises:
        ValueError: no entries, or labels asked for that an entry does not have.
        InvalidVolumeError: a file that cannot be used.
    """

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        item = {
            "image": _whole(image).float(),
            "subject": self.entries[index].subject,
            "spacing_mm": torch.tensor(image.spacing_mm),
            "view": torch.tensor(image.view),
        }
        if self.labels is not None:
            item["label"] = _whole(self.labels[index])
        return item


def _whole(slices: CachedSlices) -> torch.Tensor:
    return torch.from_numpy(np.array(slices.array))[None]


def _entries(data: Sequence[Entry | Mapping[str, Any]], labeled: bool) -> list[Entry]:
    entries: list[Entry] = [_entry(item) if isinstance(item, Mapping) else item for item in data]
    if not entries:
        raise ValueError("the list of volumes is empty; expected at least one: check the datalist and its share")
    missing = [str(entry.image) for entry in entries if labeled and entry.label is None]
    if missing:
        raise ValueError(
            f"{missing[0]}: has no label ({len(missing)} such scans among those that need one, as all under "
            "'validation' do). Fix: give them a 'label' in the datalist, or list them under 'training'"
        )
    return entries


def _entry(item: Mapping[str, Any]) -> Entry:
    if "image" not in item:
        raise ValueError(f"a volume with the keys {sorted(item)}; expected 'image' and, where it has one, 'label'")
    label = item.get("label")
    return Entry(Path(item["image"]), Path(label) if label else None, subject_of(item["image"]))
