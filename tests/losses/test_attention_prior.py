"""The attention maps as a prior on the teacher's classes: by hand, each option alone, degenerate maps."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.losses.attention_prior import AttentionPrior

# One pixel, four classes: background, two vertebrae, one disc.
TEACHER = torch.tensor([0.4, 0.3, 0.1, 0.2]).log().view(1, 4, 1, 1)
MAPS = torch.logit(torch.tensor([0.5, 0.1, 0.9, 0.2])).view(1, 4, 1, 1)


def target(**options):
    return AttentionPrior(**options)(TEACHER, MAPS).flatten()


def test_product_by_hand():
    product = torch.tensor([0.4 * 0.5, 0.3 * 0.1, 0.1 * 0.9, 0.2 * 0.2])
    torch.testing.assert_close(target(), product / product.sum())


def test_exponent_weighs_the_maps_and_zero_leaves_the_teacher():
    product = torch.tensor([0.4 * 0.25, 0.3 * 0.01, 0.1 * 0.81, 0.2 * 0.04])
    torch.testing.assert_close(target(exponent=2.0), product / product.sum())
    torch.testing.assert_close(target(exponent=0.0), torch.tensor([0.4, 0.3, 0.1, 0.2]))


def test_no_map_rules_out_a_class():
    gone = MAPS.clone()
    gone[:, 1] = -1e3
    out = AttentionPrior(floor=0.01)(TEACHER, gone).flatten()
    product = torch.tensor([0.4 * 0.5, 0.3 * 0.01, 0.1 * 0.9, 0.2 * 0.2])
    torch.testing.assert_close(out, product / product.sum())


def test_within_groups_only_the_name_changes():
    out = target(groups=[[0], [1, 2], [3]])
    named = torch.tensor([0.3 * 0.1, 0.1 * 0.9])
    torch.testing.assert_close(out, torch.cat([torch.tensor([0.4]), 0.4 * named / named.sum(), torch.tensor([0.2])]))
    torch.testing.assert_close(target(groups=[[1, 2]]), out)  # codes in no group stand alone


def test_maps_are_upsampled_to_the_pixels_they_cover():
    maps = torch.full((1, 2, 2, 1), -8.0)
    maps[0, 0, 0], maps[0, 1, 1] = 8.0, 8.0  # class 0 above, class 1 below
    out = AttentionPrior()(torch.zeros(1, 2, 8, 4), maps)
    assert (out[0, 0, :2] > 0.95).all() and (out[0, 1, 6:] > 0.95).all()


def test_softmax_maps_compete():
    out = target(activation="softmax")
    product = TEACHER.exp().flatten() * MAPS.flatten().softmax(0)
    torch.testing.assert_close(out, product / product.sum())


def test_unannotated_classes_get_nothing_and_the_rest_sums_to_one():
    teacher, maps = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 3, 3)
    for groups in (None, [[1, 2, 3]], [[2]]):
        out = AttentionPrior(groups=groups)(teacher, maps, unannotated=(2,))
        assert not out[:, 2].any()
        torch.testing.assert_close(out.sum(1), torch.ones(2, 6, 6))


def test_a_teacher_that_is_sure_against_the_map_stays_finite():
    teacher = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1)
    maps = torch.tensor([-200.0, 200.0]).view(1, 2, 1, 1)
    for groups in (None, [[0, 1]], [[1]]):
        assert AttentionPrior(groups=groups)(teacher, maps).isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "tanh"},
        {"exponent": -1.0},
        {"floor": 0.0},
        {"groups": [[1, 2], [2]]},
    ],
)
def test_bad_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AttentionPrior(**options)


def test_bad_shapes_and_codes_are_refused():
    with pytest.raises(ValueError, match="same slices and classes"):
        AttentionPrior()(torch.rand(1, 3, 8, 8), torch.rand(1, 4, 2, 2))
    with pytest.raises(ValueError, match="groups name the codes"):
        AttentionPrior(groups=[[7]])(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2))
