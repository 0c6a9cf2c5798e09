"""Augmentation: what it may touch, what it depends on, and the two views."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cps4_monai.transforms.augmentation import (
    StrongViewd,
    intensity_augmentation,
    labeled_augmentation,
    unlabeled_augmentation,
)
from cps4_monai.transforms.slice_geometry import RandSliceGeometryd

STILL = {"affine_prob": 0.0, "elastic_prob": 0.0}
ALL_INTENSITIES = {"contrast_prob": 1, "scale_prob": 1, "bias_prob": 1, "noise_prob": 1, "low_resolution_prob": 1}


def item(size=(40, 30)):
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 1, 5, 4), size=size, mode="bicubic")[0].clamp(0, 1)
    return {"image": smooth, "label": (smooth * 5).to(torch.uint8)}


def test_label_and_image_move_together():
    start = {"image": torch.zeros(1, 60, 60), "label": torch.zeros(1, 60, 60, dtype=torch.uint8)}
    start["image"][:, 10:30, 20:45], start["label"][:, 10:30, 20:45] = 1, 7
    for seed in range(5):
        moved = RandSliceGeometryd(("image", "label"), affine_prob=1, elastic_prob=1).set_random_state(seed)(start)
        assert moved["label"].dtype == torch.uint8 and set(moved["label"].unique().tolist()) <= {0, 7}
        agree = ((moved["image"] > 0.5) == (moved["label"] == 7)).float().mean()
        assert agree > 0.97 and not torch.equal(moved["label"], start["label"])


@pytest.mark.parametrize("settings", [STILL, {"rotate_deg": 0, "scale": 0, "translate_pixels": (0, 0), "affine_prob": 1,
                                              "elastic_prob": 1, "elastic_magnitude": (0, 0)}])  # fmt: skip
def test_nothing_drawn_moves_nothing(settings):
    start = item()
    moved = RandSliceGeometryd(("image", "label"), **settings).set_random_state(0)(start)
    torch.testing.assert_close(moved["image"], start["image"], atol=1e-4, rtol=0)
    identity = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 40, 30], align_corners=False)[0]
    torch.testing.assert_close(moved["grid"], identity, atol=1e-5, rtol=0)


def test_rotation_keeps_its_angle_scale_its_size_and_shift_its_pixels():
    only = {"elastic_prob": 0, "affine_prob": 1, "rotate_deg": 0, "scale": 0, "translate_pixels": (0, 0)}
    for seed in range(8):
        grid = RandSliceGeometryd("image", **{**only, "rotate_deg": 15}).set_random_state(seed)(item((40, 40)))["grid"]
        along = grid[20, 30] - grid[20, 10]
        angle = torch.rad2deg(torch.atan2(along[1], along[0])).abs()
        assert angle <= 15 and along.norm() == pytest.approx(1.0, abs=1e-4)
        grid = RandSliceGeometryd("image", **{**only, "scale": 0.2}).set_random_state(seed)(item((40, 40)))["grid"]
        across, down = grid[20, 30, 0] - grid[20, 10, 0], grid[30, 20, 1] - grid[10, 20, 1]
        assert 0.8 <= across <= 1.2 and across == pytest.approx(down.item())
        grid = RandSliceGeometryd("image", **{**only, "translate_pixels": (4, 0)}).set_random_state(seed)(item())[
            "grid"
        ]
        still = RandSliceGeometryd("image", **STILL)(item())["grid"]
        shift = (grid - still) * torch.tensor([15.0, 20.0])
        assert shift[..., 0].abs().max() < 1e-4 and shift[..., 1].abs().max() <= 4.001 and shift[..., 1].std() < 1e-4


def test_flips_happen_only_when_asked_for():
    start = item()
    flipped = RandSliceGeometryd(("image", "label"), **STILL, flip_prob=(0, 1)).set_random_state(0)(start)
    torch.testing.assert_close(flipped["image"], start["image"].flip(-1), atol=1e-4, rtol=0)
    assert RandSliceGeometryd("image").flip_prob == (0.0, 0.0)


@pytest.mark.parametrize("one", ["contrast_prob", "scale_prob", "bias_prob", "noise_prob", "low_resolution_prob"])
def test_each_intensity_part_changes_the_image_alone_and_within_range(one):
    start = item()
    out = intensity_augmentation(**{**dict.fromkeys(ALL_INTENSITIES, 0), one: 1}).set_random_state(1)(start)
    assert type(out["image"]) is torch.Tensor and out["image"].dtype == torch.float32
    assert not torch.equal(out["image"], start["image"]) and torch.equal(out["label"], start["label"])
    assert out["image"].min() >= 0 and out["image"].max() <= 1 and out["image"].isfinite().all()


def test_no_intensity_part_changes_nothing():
    start = item()
    assert torch.equal(intensity_augmentation(**dict.fromkeys(ALL_INTENSITIES, 0))(start)["image"], start["image"])


def test_weak_and_strong_views_share_their_geometry():
    transform = unlabeled_augmentation(intensity={"noise_prob": 1, "noise_std": 0.1})
    out = transform.set_random_state(4)({"image": item()["image"]})
    geometry = RandSliceGeometryd("image")
    assert not torch.equal(out["image"], out["image_strong"])
    moved = F.grid_sample(item()["image"][None], out["grid"][None], align_corners=False)[0]
    torch.testing.assert_close(out["image"], moved)  # the weak view has no intensity noise
    assert (out["image"] - out["image_strong"]).abs().mean() < 0.3 and geometry.keys == ("image",)


def test_one_view_for_all_networks():
    out = unlabeled_augmentation("same", intensity=ALL_INTENSITIES).set_random_state(4)({"image": item()["image"]})
    assert out["image_strong"] is out["image"] and not torch.equal(out["image"], item()["image"])


@pytest.mark.parametrize("make", [labeled_augmentation, unlabeled_augmentation])
def test_seeds_decide_everything(make):
    def draw(seed):
        out = make(intensity=ALL_INTENSITIES).set_random_state(seed)(item())
        return out.get("image_strong", out["image"])

    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="views"):
        StrongViewd(views="both")
    with pytest.raises(ValueError, match="one key"):
        StrongViewd(keys=("image", "label"))
    with pytest.raises(ValueError, match="scale"):
        RandSliceGeometryd("image", scale=1.0)
    with pytest.raises(TypeError):
        RandSliceGeometryd(("image", "label"), rotation=3)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("contrast_prob", 1.5, "one number of 0 to 1"),
        ("noise_prob", -0.1, "one number of 0 to 1"),
        ("blur_prob", True, "one number of 0 to 1"),
        ("gamma", (0.0, 1.6), "two numbers above 0"),
        ("gamma", [-1, 1.6], "two numbers above 0"),
        ("gamma", 0.5, "one number above 0.5"),
        ("scale", -0.2, "one number of 0 to 1"),
        ("scale", 5.0, "one number of 0 to 1"),
        ("scale", (-2.0, 0.5), "two numbers of -1 or more"),
        ("bias_coefficients", 0.2, "two numbers"),
        ("bias_coefficients", (0.2, float("nan")), "two numbers"),
        ("bias_degree", 2.5, "one whole number of 1 or more"),
        ("bias_degree", 3.0, "one whole number of 1 or more, without a decimal point"),
        ("bias_degree", 0, "one whole number of 1 or more$"),
        ("curve_points", 10.0, "one whole number or two whole numbers of 3 or more, without a decimal point"),
        ("noise_std", float("inf"), "one number of 0 or more"),
        ("noise_std", -0.05, "one number of 0 or more"),
        ("low_resolution_zoom", (0.0, 1.0), "two numbers above 0"),
        ("low_resolution_zoom", (0.5, float("inf")), "two numbers above 0"),
        ("tissue_gain", (-1.0, 1.0), "two numbers of 0 or more"),
        ("tissue_mix", (0.4, 1.4), "two numbers of 0 to 1"),
        ("curve_points", (2, 6), "whole numbers of 3 or more"),
        ("blur_sigma", (-0.25, 1.0), "two numbers of 0 or more"),
    ],
)
def test_intensities_out_of_range_are_refused_when_they_are_built(setting, value, expected):
    with pytest.raises(ValueError, match=f"intensity's {setting} is .*; expected .*{expected}"):
        labeled_augmentation(intensity={setting: value})


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("affine_prob", 2, "one number of 0 to 1"),
        ("flip_prob", 0.5, "two numbers of 0 to 1"),
        ("rotate_deg", -5.0, "one number of 0 to 180"),
        ("translate_pixels", [8.0], "two numbers of 0 or more"),
        ("translate_pixels", [8.0, -1.0], "two numbers of 0 or more"),
        ("elastic_spacing", [0, 24], "two whole numbers of 1 or more"),
        ("elastic_spacing", [24.5, 24], "two whole numbers of 1 or more"),
        ("elastic_spacing", 24, "two whole numbers of 1 or more"),
        ("elastic_magnitude", [-0.5, 2.0], "two numbers of 0 or more"),
        ("elastic_magnitude", 1.0, "two numbers of 0 or more"),
    ],
)
def test_geometry_out_of_range_is_refused_when_it_is_built(setting, value, expected):
    with pytest.raises(ValueError, match=rf"geometry's {setting}.* is .*; expected {expected}"):
        unlabeled_augmentation(geometry={setting: value})


def test_other_forms_of_ranges_that_mean_something_pass():
    forms = {"gamma": 2.0, "scale": [-0.1, 0.3], "curve_points": 4, "tissue_gain": (1.2, 0.3), "noise_std": 0}
    transform = intensity_augmentation(**forms, curve_prob=1, **ALL_INTENSITIES).set_random_state(0)
    assert transform(item())["image"].isfinite().all()
    assert RandSliceGeometryd("image", **STILL | {"elastic_spacing": [24.0, 12]}).elastic_spacing == (24, 12)


def test_contrast_and_zoom_may_go_above_one():
    forms = {"scale": (-0.5, 1.5), "low_resolution_zoom": [0.5, 1.5]}
    transform = intensity_augmentation(**{**forms, **ALL_INTENSITIES})
    for seed in range(4):
        assert transform.set_random_state(seed)(item())["image"].isfinite().all()


def test_a_smaller_field_of_view_empties_image_and_label_beyond_it():
    everywhere = {"image": torch.ones(1, 40, 30), "label": torch.full((1, 40, 30), 3, dtype=torch.uint8)}
    transform = RandSliceGeometryd(("image", "label"), **STILL, cut=0.25, cut_prob=1.0).set_random_state(2)
    out = transform(everywhere)
    kept = out["label"][0] == 3
    assert torch.equal(kept, out["image"][0] > 0.5)
    rows, columns = torch.nonzero(kept.any(1)).flatten(), torch.nonzero(kept.any(0)).flatten()
    assert kept[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one rectangle
    assert 0 < rows[0] <= 10 and 29 <= rows[-1] < 40 and columns[0] <= 7.5 and columns[-1] >= 22
    assert (out["grid"][~kept].abs() > 1).all()  # what samples by the grid later sees the same view


def test_no_view_is_cut_unless_asked_for_and_bad_cuts_are_refused():
    whole = RandSliceGeometryd("image", **STILL, cut=0.4, cut_prob=0.0)({"image": torch.ones(1, 8, 8)})
    assert torch.equal(whole["image"], torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match=r"cut is 0\.5; expected 0 to below 0\.5"):
        RandSliceGeometryd("image", cut=0.5)


def test_a_second_strong_view_is_another_draw_and_leaves_the_first_as_it_was():
    one, two = (unlabeled_augmentation(geometry=STILL, intensity=ALL_INTENSITIES, strong_views=n) for n in (1, 2))
    single, both = one.set_random_state(3)(item()), two.set_random_state(3)(item())
    assert "image_strong_2" not in single
    assert torch.equal(single["image"], both["image"]) and torch.equal(single["image_strong"], both["image_strong"])
    assert not torch.equal(both["image_strong"], both["image_strong_2"])
    again = two.set_random_state(3)(item())
    assert torch.equal(again["image_strong_2"], both["image_strong_2"])
    same = unlabeled_augmentation("same", STILL, ALL_INTENSITIES, strong_views=2).set_random_state(0)(item())
    assert torch.equal(same["image"], same["image_strong_2"])
    with pytest.raises(ValueError, match="strong_views is 0"):
        StrongViewd(strong_views=0)


def test_labeled_slices_have_a_strong_view_only_where_one_is_asked_for():
    assert "image_strong" not in labeled_augmentation(STILL, ALL_INTENSITIES).set_random_state(0)(item())
    views = labeled_augmentation(STILL, ALL_INTENSITIES, strong_views=1).set_random_state(0)(item())
    assert not torch.equal(views["image"], views["image_strong"]) and views["image_strong"].shape == (1, 40, 30)
