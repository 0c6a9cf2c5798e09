"""The ceiling of a coarse grid, worked out by hand."""

from __future__ import annotations

import torch

from cps4_monai.evaluation.prompt_map import through_grid


def test_a_mask_aligned_with_the_grid_survives_in_its_middle() -> None:
    label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    label[..., 2:6, 2:6] = 1
    back = through_grid(label, (4, 4), num_classes=2)
    # Patches of 2 x 2: the mask covers 2 x 2 patches whole. Bilinearly, a pixel next to the edge inside the mask has
    # 3/4 of it along one axis, 9/16 at the corner: all above one half. Outside, 1/4 at most: nothing is added.
    assert torch.equal(back, label.long())


def test_a_disc_thinner_than_half_a_patch_is_lost() -> None:
    label = torch.zeros(1, 1, 16, 8, dtype=torch.uint8)
    label[..., 5, :] = 1  # one of the four rows of its patch
    assert through_grid(label, (4, 2), num_classes=2).sum() == 0


def test_the_full_grid_changes_nothing() -> None:
    label = torch.randint(0, 5, (2, 1, 6, 4))
    assert torch.equal(through_grid(label, (6, 4), num_classes=5), label)
