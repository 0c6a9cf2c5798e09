"""Batches of images alone: one pass, every draw a function of seed, epoch and position."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Randomizable

from cps4_monai.data.image_batches import ImageLoader


class Slices(torch.utils.data.Dataset):
    """Stands for an unlabeled SliceDataset: its draws show index and seed."""

    def __init__(self, length):
        self.length, self.random = length, Randomizable()

    def __len__(self):
        return self.length

    def draw(self, index, seed):
        noise = float(self.random.set_random_state(seed).R.uniform())
        return {"image": torch.full((1, 2, 2), index + noise), "slice_id": index}


def images(loader, epoch):
    loader.set_epoch(epoch)
    return torch.cat([batch["image"] for batch in loader])


def order(loader, epoch):
    return images(loader, epoch)[:, 0, 0, 0].int().tolist()


def test_an_epoch_is_one_pass_of_full_batches():
    loader = ImageLoader(Slices(11), batch_size=4)
    batches = list(loader)
    assert [tuple(batch["image"].shape) for batch in batches] == [(4, 1, 2, 2)] * 2 and len(loader) == 2
    first, second = torch.cat([batch["slice_id"] for batch in batches]).tolist(), order(loader, 1)
    assert len(set(first)) == 8 and first != second != sorted(second)


def test_fewer_slices_than_a_batch_and_a_fixed_length():
    assert [len(batch["image"]) for batch in ImageLoader(Slices(3), batch_size=8)] == [3]
    assert [len(batch["image"]) for batch in ImageLoader(Slices(3), batch_size=4, iterations_per_epoch=2)] == [4, 4]


def test_epochs_differ_and_resuming_changes_nothing():
    first, second = images(ImageLoader(Slices(9), 3), 0), images(ImageLoader(Slices(9), 3), 1)
    assert torch.equal(second, images(ImageLoader(Slices(9), 3), 1)) and not torch.equal(first, second)
    assert not torch.equal(first, images(ImageLoader(Slices(9), 3, seed=1), 0))


def test_processes_share_one_order():
    alone = list(ImageLoader(Slices(8), 4))
    parts = [list(ImageLoader(Slices(8), 2, rank=rank, world_size=2)) for rank in (0, 1)]
    for whole, left, right in zip(alone, *parts, strict=True):
        assert torch.equal(whole["image"], torch.cat([left["image"], right["image"]]))
    (first,), (second,) = (list(ImageLoader(Slices(3), 8, rank=rank, world_size=2)) for rank in (0, 1))
    assert len(first["slice_id"]) == len(second["slice_id"]) == 1 and first["slice_id"] != second["slice_id"]


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"rank": 1}, {"iterations_per_epoch": 0}])
def test_bad_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageLoader(Slices(4), **wrong)
    with pytest.raises(ValueError, match="batch size of the image slices is 0"):
        ImageLoader(Slices(4), 0)
