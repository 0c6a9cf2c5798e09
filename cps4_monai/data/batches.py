"""Batches whose every random draw is a function of seed, epoch and position: workers and resuming change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from cps4_monai.data.datasets import SliceDataset
from cps4_monai.data.shared_memory import bytes_of, workers_that_fit

Draw = tuple[str, int, int]


class _Sources(Dataset):
    """Several data sets, asked by (name, index, seed)."""

    def __init__(self, sources: dict[str, SliceDataset]) -> None:
        self.sources = sources

    def __getitem__(self, draw: Draw) -> tuple[str, dict[str, Any]]:
        name, index, seed = draw
        return name, self.sources[name].draw(index, seed)


class _Schedule:
    """Which slices, with which seeds, make up each batch of an epoch.

    With several processes, the draws are those of one process with batches ``world_size`` times as large, of which
    each process takes its part.

    Args:
        lengths: slices of each source.
        batch_sizes: slices taken of each source for one batch of one process.
        iterations: batches of an epoch.
        seed: of all draws.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        lengths: dict[str, int],
        batch_sizes: dict[str, int],
        iterations: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths, self.batch_sizes, self.iterations, self.seed = lengths, batch_sizes, iterations, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[Draw]]:
        parts = [
            self._draws(stream, name, self.batch_sizes[name] * self.world_size * self.iterations)
            for stream, name in enumerate(self.lengths)
        ]
        for step in range(self.iterations):
            batch: list[Draw] = []
            for draws, size in zip(parts, self.batch_sizes.values(), strict=True):
                start = (step * self.world_size + self.rank) * size
                batch += draws[start : start + size]
            yield batch

    def _draws(self, stream: int, name: str, count: int) -> list[Draw]:
        random = np.random.default_rng([self.seed, self.epoch, stream])
        rounds = -(-count // self.lengths[name])
        order = np.concatenate([random.permutation(self.lengths[name]) for _ in range(rounds)])[:count]
        seeds = random.integers(0, 2**32, size=count, dtype=np.uint64)
        return [(name, index, seed) for index, seed in zip(order.tolist(), seeds.tolist(), strict=True)]


def _by_source(items: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, item in items:
        groups.setdefault(name, []).append(item)
    return {name: default_collate(group) for name, group in groups.items()}


def _flat(items: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return default_collate([item for _, item in items])


class _EpochLoader:
    """A torch loader with workers that stay, and an epoch that decides all draws."""

    def __init__(
        self, sources: dict[str, SliceDataset], schedule: _Schedule, num_workers: int, pin_memory: bool, collate: Any
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}; expected 0 or more")
        self.schedule = schedule
        if num_workers > 0:
            sizes = schedule.batch_sizes
            batch = sum(bytes_of(sources[name].draw(0, 0)) * size for name, size in sizes.items())
            num_workers = workers_that_fit(num_workers, batch)
        self.loader = DataLoader(
            _Sources(sources),
            batch_sampler=schedule,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            # A generator of its own: starting an epoch must not move the global random state.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.schedule)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.loader)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the draws of the next pass.

        Args:
            epoch: number of the epoch, from 0.
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; expected 0 or more")
        self.schedule.epoch = int(epoch)


class StageOneLoader(_EpochLoader):
    """Shuffled labeled slices: ``image`` (B, 1, H, W), ``label`` (B, 1, H, W), and what else the items hold.

    Only full batches are given, unless there is fewer than one; the slices left out differ from epoch to epoch.

    Args:
        dataset: labeled slices.
        batch_size: slices per batch.
        seed: of the order and the transforms, 0 or more.
        num_workers: processes that make batches; 0 makes them in this one. Has no influence on the batches.
        pin_memory: page-locked batches, for copies to a GPU.
        iterations_per_epoch: batches of an epoch; None is one pass over the data set.
        rank: of this process, from 0; its batches are its part of the global ones.
        world_size: number of processes.

    Raises:
        ValueError: a size below 1, a negative seed or number of workers, or a rank outside the world.
    """

    source = "labeled"  # enters each draw

    def __init__(
        self,
        dataset: SliceDataset,
        batch_size: int = 8,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        iterations_per_epoch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _at_least_one(batch_size=batch_size, iterations_per_epoch=iterations_per_epoch)
        sources = {self.source: dataset}
        schedule = _schedule(sources, [batch_size], self.source, iterations_per_epoch, seed, rank, world_size)
        super().__init__(sources, schedule, num_workers, pin_memory, _flat)


class SemiSupervisedLoader(_EpochLoader):
    """Batches ``{"labeled": {...}, "unlabeled": {...}}``; an epoch is one pass over the unlabeled slices.

    Labeled slices cycle, freshly shuffled each round. Of the unlabeled ones only full batches are given, unless there
    is fewer than one. Without unlabeled slices an epoch is one pass over the labeled ones, and batches have no
    "unlabeled".

    Args:
        labeled: labeled slices.
        unlabeled: unlabeled slices, or None.
        batch_size_labeled: labeled slices per batch.
        batch_size_unlabeled: unlabeled slices per batch.
        seed: of the order and the transforms, 0 or more.
        num_workers: processes that make batches; 0 makes them in this one. Has no influence on the batches.
        iterations_per_epoch: batches of an epoch; None is one pass.
        pin_memory: page-locked batches, for copies to a GPU.
        rank: of this process, from 0; its batches are its part of the global ones.
        world_size: number of processes.

    Raises:
        ValueError: a size below 1, a negative seed or number of workers, a rank outside the world, or ``labeled``
            without labels.
    """

    def __init__(
        self,
        labeled: SliceDataset,
        unlabeled: SliceDataset | None = None,
        batch_size_labeled: int = 4,
        batch_size_unlabeled: int = 4,
        seed: int = 0,
        num_workers: int = 0,
        iterations_per_epoch: int | None = None,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _at_least_one(
            batch_size_labeled=batch_size_labeled,
            batch_size_unlabeled=batch_size_unlabeled,
            iterations_per_epoch=iterations_per_epoch,
        )
        sources = {"labeled": labeled}
        if unlabeled is not None:
            sources["unlabeled"] = unlabeled
        pace = "labeled" if unlabeled is None else "unlabeled"
        sizes = [batch_size_labeled, batch_size_unlabeled][: len(sources)]
        schedule = _schedule(sources, sizes, pace, iterations_per_epoch, seed, rank, world_size)
        super().__init__(sources, schedule, num_workers, pin_memory, _by_source)


def _schedule(
    sources: dict[str, SliceDataset],
    sizes: Sequence[int],
    pace: str,
    iterations: int | None,
    seed: int,
    rank: int,
    world_size: int,
) -> _Schedule:
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of world_size {world_size}; expected 0 to world_size - 1")
    if "labeled" in sources and not sources["labeled"].labeled:
        raise ValueError("the labeled data set gives no labels; make it with labeled=True")
    lengths = {name: len(dataset) for name, dataset in sources.items()}
    batch_sizes = dict(zip(lengths, sizes, strict=True))
    if iterations is None:
        batch_sizes[pace] = min(batch_sizes[pace], max(1, lengths[pace] // world_size))
        iterations = max(1, lengths[pace] // (batch_sizes[pace] * world_size))
    return _Schedule(lengths, batch_sizes, iterations, seed, rank, world_size)


def _at_least_one(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more")
