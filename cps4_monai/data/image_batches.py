"""Batches of slices without labels, for what learns from images alone."""

from __future__ import annotations

from cps4_monai.data.batches import _at_least_one, _EpochLoader, _flat, _Schedule
from cps4_monai.data.datasets import SliceDataset


class ImageLoader(_EpochLoader):
    """Shuffled slices: ``image`` (B, 1, H, W), and what else the items hold.

    As with the other loaders, every draw is a function of seed, epoch and position. Only full batches are given, unless
    there is fewer than one.

    Args:
        dataset: slices, labeled or not; labels are not asked for.
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

    def __init__(
        self,
        dataset: SliceDataset,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        iterations_per_epoch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _at_least_one(batch_size=batch_size, iterations_per_epoch=iterations_per_epoch)
        if seed < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"seed is {seed}, rank {rank}, world_size {world_size}; expected a seed of 0 or more and a rank below "
                "the number of processes"
            )
        each = min(batch_size, max(1, len(dataset) // world_size))
        iterations = iterations_per_epoch or max(1, len(dataset) // (each * world_size))
        size = each if iterations_per_epoch is None else batch_size
        schedule = _Schedule({"images": len(dataset)}, {"images": size}, iterations, seed, rank, world_size)
        super().__init__({"images": dataset}, schedule, num_workers, pin_memory, _flat)
