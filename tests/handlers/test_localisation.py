"""Localisation by attention maps: the pointing game, the patch AUC and the share of right levels, by hand."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from scipy.stats import mannwhitneyu

from cps4_monai.handlers import AttentionLocalisation
from cps4_monai.handlers.localisation import area_under_roc

NAMES = ["background", "S", "L5", "L4"]


def score(logits, label, **settings):
    """Metrics of volumes [(logits (C, D, h, w), label (1, D, H, W))]."""
    engine = Engine(lambda _, batch: batch)
    AttentionLocalisation(NAMES, **settings).attach(engine, "pointing_game")
    return engine.run([([logits], [label])]).metrics


@pytest.fixture
def volume():
    """Two slices on a grid of 2 x 2 cells of 2 x 2 pixels; S in both, L5 in the first, L4 in none."""
    label = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    label[0, 0, 0, 0], label[0, 0, 3, 3], label[0, 1, 1, 3] = 1, 2, 1
    logits = torch.zeros(4, 2, 2, 2)
    logits[0] = 50.0  # background never takes part
    return logits, label


def test_share_of_pairs_whose_largest_cell_holds_the_structure(volume):
    logits, label = volume
    logits[1, 0, 0, 0] = 1.0  # right in slice 0
    logits[1, 1, 1, 1] = 1.0  # wrong in slice 1, where S lies at the upper right
    logits[2, 0, 1, 1] = 1.0
    metrics = score(logits, label)
    assert metrics["pointing_game_S"] == 0.5 and metrics["pointing_game_L5"] == 1.0
    assert metrics["pointing_game"] == 0.75, "mean over structures, not over pairs"
    assert "pointing_game_L4" not in metrics and "pointing_game_background" not in metrics


def test_patch_auc_is_the_share_of_pairs_of_cells_in_the_right_order(volume):
    logits, label = volume
    logits[1, 0] = torch.tensor([[1.0, 0.0], [2.0, 1.0]])  # S upper left: above one of three, level with another
    logits[1, 1] = torch.tensor([[0.0, 3.0], [1.0, 2.0]])  # S upper right, above all
    metrics = score(logits, label)
    assert metrics["patch_auc_S"] == pytest.approx((0.5 + 1) / 2)
    assert metrics["patch_auc_L5"] == 0.5, "the same everywhere"
    assert metrics["patch_auc"] == pytest.approx((0.75 + 0.5) / 2), "mean over structures that some slice shows"
    assert "patch_auc_L4" not in metrics and "patch_auc_background" not in metrics


def test_a_softmax_over_classes_is_asked_itself():
    """It moves the largest cell: S has the larger logit where L5 has a still larger one, and A of 0.018 there."""
    logits = torch.full((3, 1, 2, 1), -20.0)
    logits[1, 0, :, 0], logits[2, 0, :, 0] = torch.tensor([5.0, 3.0]), torch.tensor([9.0, -5.0])
    label = torch.zeros(1, 1, 4, 2, dtype=torch.uint8)
    label[0, 0, :2], label[0, 0, 2:] = 2, 1
    found = {}
    for activation in ("sigmoid", "softmax"):
        engine = Engine(lambda _, batch: batch)
        AttentionLocalisation(NAMES[:3], activation=activation).attach(engine, "pointing_game")
        metrics = engine.run([([logits], [label])]).metrics
        found[activation] = metrics["pointing_game_S"], metrics["patch_auc_S"]
    assert found == {"sigmoid": (0.0, 0.0), "softmax": (1.0, 1.0)}


def test_patch_auc_takes_known_cells_only(volume):
    logits, label = volume
    logits[1, 0] = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert score(logits, label, unannotated=(2, 3))["patch_auc_S"] == pytest.approx((2 / 3 + 0.5) / 2)
    label[0, 0, 3, 0] = 255  # in the cell that was ranked too high
    assert score(logits, label, unannotated=(2, 3))["patch_auc_S"] == pytest.approx((1 + 0.5) / 2)
    label[0, 0, :, 2:], label[0, 0, 2:] = 255, 255  # no cell is known to be without S: the slice does not count
    assert score(logits, label, unannotated=(2, 3))["patch_auc_S"] == 0.5


def test_the_area_is_that_of_mann_and_whitney():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 12, (2, 3, 200), generator=generator).float()
    positive = torch.rand(2, 3, 200, generator=generator) < 0.3
    area = area_under_roc(values, positive, torch.ones_like(positive))
    for place in ((0, 0), (1, 2)):
        u = mannwhitneyu(values[place][positive[place]], values[place][~positive[place]]).statistic
        expected = u / (positive[place].sum() * (~positive[place]).sum())
        assert area[place] == pytest.approx(float(expected), abs=1e-6)


def test_share_of_structure_pixels_named_right(volume):
    logits, label = volume
    logits[2, 0] = torch.tensor([[-1.0, -1.0], [-1.0, 2.0]])
    logits[1, 1] = -3.0  # in slice 1 L5 is above S
    assert score(logits, label)["level_share"] == pytest.approx(2 / 3)


def test_a_prompt_that_no_labeled_scan_taught_names_no_level_and_its_structure_still_counts(volume):
    logits, label = volume
    logits[2, 0] = torch.tensor([[-1.0, -1.0], [-1.0, 2.0]])
    logits[1, 1] = 1.0
    logits[3] = 40.0  # L4, which nobody taught, above all others
    assert score(logits, label)["level_share"] == 0.0
    assert score(logits, label, not_labeled=[3])["level_share"] == 1.0
    label[0, 1, 3, 0] = 3
    assert score(logits, label, not_labeled=[3])["level_share"] == 0.75


def test_levels_are_those_of_the_upsampled_activation():
    """Between two cells of logits 9 and -1 the mean of sigmoids is above that of a constant 1, below in logits."""
    logits, label = torch.zeros(4, 1, 1, 2), torch.ones(1, 1, 1, 4, dtype=torch.uint8)
    logits[1, 0, 0], logits[2], logits[3] = torch.tensor([9.0, -1.0]), 0.5, -9.0
    sigmoid = score(logits, label)["level_share"]
    interpolated = torch.tensor([9.0, 6.5, 1.5, -1.0])  # logits of S, bilinear
    assert sigmoid == 0.5 and (interpolated > 0.5).float().mean() == 0.75


def test_a_largest_cell_that_nobody_annotated_is_no_miss_unless_it_is_known_to_be_one(volume):
    logits, label = volume
    logits[1, 1, 1, 1] = 1.0  # S in slice 1 is at the upper right
    logits[1, 0, 0, 0] = 1.0
    assert score(logits, label)["pointing_game_S"] == 0.5
    label[0, 1, 3, 2] = 255
    assert score(logits, label)["pointing_game_S"] == 1.0
    label[0, 0, 1, 1] = 255  # in the cell that holds S for sure
    assert score(logits, label)["pointing_game_S"] == 1.0


def test_pixels_without_a_label_and_unannotated_structures_count_nothing(volume):
    logits, label = volume
    logits[1, 0, 0, 0] = 1.0
    before = score(logits, label)
    label[0, :, 2, :2] = 255
    assert score(logits, label) == before
    with_l4 = label.clone()
    with_l4[0, 1, 0, 0] = 3
    assert score(logits, with_l4, unannotated=(3,)) == before
    logits[3] = 40.0  # neither does its map
    assert score(logits, with_l4, unannotated=(3,)) == before
    assert score(logits, with_l4)["level_share"] < before["level_share"]


def test_volumes_add_up_and_a_new_validation_starts_afresh(volume):
    logits, label = volume
    metric = AttentionLocalisation(NAMES)
    logits[1, 0, 0, 0] = 1.0
    metric.update(([logits, logits], [label, label]))
    assert metric.compute() == score(logits, label)["pointing_game"]
    metric.reset()
    with pytest.raises(NotComputableError, match="no structure"):
        metric.compute()
