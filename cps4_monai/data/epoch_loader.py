"""Passes over slices whose every random draw is a function of seed, epoch and position."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cps4_monai.data.datasets import SliceDataset
from cps4_monai.data.shared_memory import bytes_of, workers_that_fit

Draw = tuple[str, int, int]


class _Sources(Dataset[tuple[str, dict[str, Any]]]):
    """Several data sets, asked by (name, index, seed)."""

    def __init__(self, sources: Mapping[str, SliceDataset]) -> None:
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


def _processes_here() -> int:
    """Processes of this run on this machine, as torchrun tells them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class EpochLoader:
    """A torch loader with workers that stay, and an epoch that decides all draws.

    Only full batches are given, unless the source that sets the pace has fewer slices than one; the slices left out
    differ from epoch to epoch. Other sources cycle, freshly shuffled each round.

    Args:
        sources: slices by name; the draws of each are a stream of their own, numbered in this order.
        batch_sizes: slices of each source in one batch, by the same names.
        pace: the source that an epoch passes over once.
        collate: makes a batch of pairs (name, item).
        seed: of the order and the transforms, 0 or more.
        num_workers: processes that make batches; 0 makes them in this one. Has no influence on the batches.
        iterations_per_epoch: batches of an epoch; None is one pass.
        pin_memory: page-locked batches, for copies to a GPU.
        rank: of this process, from 0; its batches are its part of the global ones.
        world_size: number of processes.

    Raises:
        ValueError: a size below 1, a negative seed or number of workers, or a rank outside the world.
    """

    def __init__(
        self,
        sources: Mapping[str, SliceDataset],
        batch_sizes: Mapping[str, int],
        pace: str,
        collate: Callable[[Sequence[tuple[str, dict[str, Any]]]], dict[str, Any]],
        *,
        seed: int = 0,
        num_workers: int = 0,
        iterations_per_epoch: int | None = None,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, number, least in (
            *((f"batch size of the {name} slices", size, 1) for name, size in batch_sizes.items()),
            ("iterations_per_epoch", 1 if iterations_per_epoch is None else iterations_per_epoch, 1),
            ("seed", seed, 0),
            ("num_workers", num_workers, 0),
        ):
            if number < least:
                raise ValueError(f"{name} is {number}; expected {least} or more")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of world_size {world_size}; expected 0 to world_size - 1")
        lengths = {name: len(slices) for name, slices in sources.items()}
        sizes, iterations = dict(batch_sizes), iterations_per_epoch
        if iterations is None:
            sizes[pace] = min(sizes[pace], max(1, lengths[pace] // world_size))
            iterations = max(1, lengths[pace] // (sizes[pace] * world_size))
        self.schedule = _Schedule(lengths, sizes, iterations, seed, rank, world_size)
        if num_workers > 0:
            batch = sum(bytes_of(sources[name].draw(0, 0)) * size for name, size in sizes.items())
            num_workers = workers_that_fit(num_workers, batch, processes=min(_processes_here(), world_size))
        self.loader = DataLoader(
            _Sources(sources),
            batch_sampler=self.schedule,
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

    def close(self) -> None:
        """Ends the workers and lets go of what they have fetched ahead; the next pass starts new ones."""
        self.loader._iterator = None  # torch's own place of workers that stay, which end with it

    def set_epoch(self, epoch: int) -> None:
        """Chooses the draws of the next pass.

        Args:
            epoch: number of the epoch, from 0.
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; expected 0 or more")
        self.schedule.epoch = int(epoch)
