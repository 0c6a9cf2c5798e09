"""Loaders: every draw is a function of seed, epoch and position."""

from __future__ import annotations

from collections import Counter
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from monai.transforms import Randomizable

from cps4_monai.data.batches import SemiSupervisedLoader


class Slices(torch.utils.data.Dataset):
    """Stands for a SliceDataset: its draws show index and seed."""

    def __init__(self, length, labeled=True):
        self.length, self.labeled, self.random = length, labeled, Randomizable()

    def __len__(self):
        return self.length

    def draw(self, index, seed):
        noise = float(self.random.set_random_state(seed).R.uniform())
        item = {"image": torch.full((1, 2, 2), index + noise), "slice_id": index}
        return {**item, "label": torch.zeros(1, 2, 2, dtype=torch.uint8)} if self.labeled else item


def pass_over(loader, epoch):
    loader.set_epoch(epoch)
    return list(loader)


def flat(batches):
    return torch.cat([part["image"].flatten() for batch in batches for part in batch.values()])


def test_workers_epochs_and_resuming_change_nothing():
    def loader(workers, seed=1):
        return SemiSupervisedLoader(Slices(5), Slices(11, False), 2, 3, seed=seed, num_workers=workers)

    straight = loader(0)
    epochs = [flat(pass_over(straight, epoch)) for epoch in range(3)]
    many = loader(2)
    assert all(torch.equal(flat(pass_over(many, epoch)), epochs[epoch]) for epoch in (0, 1, 2, 1))
    assert torch.equal(flat(pass_over(loader(0), 2)), epochs[2])
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(flat(pass_over(loader(0, seed=2), 0)), epochs[0])


def test_workers_end_when_the_loader_is_closed_and_the_next_pass_is_the_same():
    loader = SemiSupervisedLoader(Slices(5), Slices(11, False), 2, 3, num_workers=2)
    before, children = flat(pass_over(loader, 1)), set(active_children())
    assert len(children) >= 2
    loader.close()
    for child in children:
        child.join(20)
    assert not children & set(active_children())
    assert torch.equal(flat(pass_over(loader, 1)), before)
    loader.close()


def test_an_epoch_is_one_pass_over_the_unlabeled_slices_with_labeled_ones_cycling():
    loader = SemiSupervisedLoader(Slices(3), Slices(11, False), 4, 2)
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    unlabeled = Counter(i for b in batches for i in b["unlabeled"]["slice_id"].tolist())
    labeled = Counter(i for b in batches for i in b["labeled"]["slice_id"].tolist())
    assert len(unlabeled) == 10 and set(unlabeled.values()) == {1}
    assert sum(labeled.values()) == 20 and max(labeled.values()) - min(labeled.values()) <= 1
    images = torch.cat([b["labeled"]["image"][:, 0, 0, 0] for b in batches])
    assert len(images.unique()) == 20  # a slice that comes again is augmented again
    assert "label" not in batches[0]["unlabeled"] and batches[0]["labeled"]["label"].dtype == torch.uint8


def test_fewer_slices_than_a_batch_still_make_one():
    (batch,) = list(SemiSupervisedLoader(Slices(1), Slices(2, False), 4, 4))
    assert batch["labeled"]["image"].shape[0] == 4 and batch["unlabeled"]["image"].shape[0] == 2


def test_without_unlabeled_slices_an_epoch_is_one_pass_over_the_labeled_ones():
    batches = list(SemiSupervisedLoader(Slices(9), None, 4))
    assert len(batches) == 2 and set(batches[0]) == {"labeled"}


def test_the_number_of_iterations_can_be_set():
    loader = SemiSupervisedLoader(Slices(3), Slices(4, False), 2, 2, iterations_per_epoch=7)
    assert len(list(loader)) == len(loader) == 7


def test_the_global_random_state_is_left_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(SemiSupervisedLoader(Slices(3), Slices(4, False)))
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(
    "settings", [{"batch_size_labeled": 0}, {"seed": -1}, {"num_workers": -1}, {"iterations_per_epoch": 0}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        SemiSupervisedLoader(Slices(3), Slices(4, False), **settings)


def test_labeled_slices_must_have_labels():
    with pytest.raises(ValueError, match="labeled=True"):
        SemiSupervisedLoader(Slices(3, labeled=False))
    with pytest.raises(ValueError, match="epoch is -1"):
        SemiSupervisedLoader(Slices(3)).set_epoch(-1)


def test_all_ranks_together_make_the_batches_of_one_process_with_larger_ones():
    def loader(size, rank=0, world_size=1, **more):
        labeled, unlabeled = Slices(7), Slices(23, False)
        return SemiSupervisedLoader(
            labeled, unlabeled, 2 * size, 3 * size, seed=4, rank=rank, world_size=world_size, **more
        )

    for more in ({}, {"iterations_per_epoch": 5}):
        whole, ranks = pass_over(loader(2, **more), 3), [pass_over(loader(1, rank, 2, **more), 3) for rank in (0, 1)]
        assert len(whole) == len(ranks[0]) == len(ranks[1])
        for batch, *parts in zip(whole, *ranks, strict=True):
            for name in ("labeled", "unlabeled"):
                assert torch.equal(batch[name]["image"], torch.cat([part[name]["image"] for part in parts]))


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank is 2 of world_size 2"):
        SemiSupervisedLoader(Slices(3), rank=2, world_size=2)
