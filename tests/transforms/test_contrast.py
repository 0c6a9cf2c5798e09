"""Contrasts drawn by tissue and inverted intensities: hand-worked values, what stays as it is, what depends on what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cps4_monai.transforms.augmentation import intensity_augmentation, labeled_augmentation, unlabeled_augmentation
from cps4_monai.transforms.contrast import RandInvertd, RandTissueContrastd, apart, inverted, soften, tissue_table

BODIES, DISCS = [1, 2, 3], [11, 12]
STILL = {"affine_prob": 0.0, "elastic_prob": 0.0}
OFF = dict.fromkeys(("contrast_prob", "scale_prob", "bias_prob", "noise_prob"), 0.0)


def spine() -> dict[str, torch.Tensor]:
    """Bodies of 0.6 and discs of 0.3 with texture, one above the other, in surroundings of 0.15 to 0.8."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(1, 60, 30, dtype=torch.uint8)
    for row, code in enumerate([1, 11, 2, 12, 3]):
        label[0, 5 + 10 * row : 15 + 10 * row, 10:20] = code
    image = torch.linspace(0.15, 0.8, 30).expand(1, 60, 30).clone()
    image[(label > 0) & (label < 11)], image[label > 10] = 0.6, 0.3
    texture = 0.04 * torch.rand(image.shape, generator=generator) - 0.02
    image = torch.where(label > 0, image + texture, image)
    image[:, :, :3] = 0.0  # padding
    return {"image": image, "label": label}


def drawn(seed: int = 0, item: dict[str, torch.Tensor] | None = None, **settings: Any) -> torch.Tensor:
    transform = RandTissueContrastd("image", [BODIES, DISCS], 1.0, **{"mix": (1.0, 1.0), "jitter": 0.0, **settings})
    return transform.set_random_state(seed)(item or spine())["image"]


def inner(label: torch.Tensor, codes: list[int]) -> torch.Tensor:
    """Pixels of a tissue whose neighbours are all of it."""
    inside = torch.isin(label, torch.tensor(codes)).float()
    return torch.from_numpy(soften(inside.numpy())) > 0.999


def test_inverted_by_hand() -> None:
    image = torch.tensor([0.0, 0.05, 0.1, 0.5, 1.0])
    torch.testing.assert_close(inverted(image, 0.1), torch.tensor([0.0, 0.475, 0.9, 0.5, 0.0]))
    torch.testing.assert_close(inverted(image, 0.0), torch.tensor([0.0, 0.95, 0.9, 0.5, 0.0]))


def test_a_share_of_slices_is_inverted_and_padding_stays_black() -> None:
    start = {"image": torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1))}
    start["image"][:, :, 0] = 0.0
    transform = RandInvertd("image", 0.3)
    changed = [transform.set_random_state(seed)(start)["image"] for seed in range(200)]
    share = np.mean([not torch.equal(image, start["image"]) for image in changed])
    assert 0.2 < share < 0.4 and all((image[:, :, 0] == 0).all() for image in changed)


def test_soften_by_hand() -> None:
    step = np.zeros((1, 3, 4), dtype=np.float32)
    step[..., 2:] = 1.0
    np.testing.assert_allclose(soften(step)[0, 1], [0.0, 0.25, 0.75, 1.0])
    point = np.zeros((1, 5, 5), dtype=np.float32)
    point[0, 2, 2] = 16.0
    np.testing.assert_allclose(soften(point)[0, 1:4, 1:4], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


def test_a_tissue_gets_the_drawn_mean_and_its_texture_times_the_drawn_gain() -> None:
    start = spine()
    for seed in range(5):
        transform = RandTissueContrastd("image", [BODIES, DISCS], 1.0, mix=(1.0, 1.0), jitter=0.0)
        new = transform.set_random_state(seed)(start)["image"]
        for t, codes in enumerate((BODIES, DISCS)):
            at, median = inner(start["label"], codes), start["image"][torch.isin(start["label"], torch.tensor(codes))]
            expected = transform._means[t] + transform._gains[t] * (start["image"][at] - float(np.median(median)))
            torch.testing.assert_close(new[at], expected.float().clamp(0, 1), atol=1e-4, rtol=0)
            assert 0.3 <= abs(transform._gains[t]) <= 1.2


def test_discs_become_brighter_and_darker_than_bodies_in_many_draws() -> None:
    start = spine()
    differences = []
    for seed in range(60):
        new = drawn(seed)
        differences.append(float(new[inner(start["label"], DISCS)].mean() - new[inner(start["label"], BODIES)].mean()))
    brighter = np.mean(np.array(differences) > 0)
    assert 0.3 < brighter < 0.7 and np.min(np.abs(differences)) > 0.1  # never the same


def test_background_of_one_intensity_keeps_one_and_padding_stays_black() -> None:
    start = spine()
    far = slice(22, 30)  # columns that no softened border reaches
    for seed in range(5):
        new = drawn(seed)
        columns = new[0, :, far]
        assert (columns.std(dim=0) < 1e-5).all() and (new[0, :, 0] == 0).all()
        assert not torch.allclose(columns, start["image"][0, :, far], atol=1e-3)


def test_what_looks_like_a_tissue_and_is_not_labeled_changes_with_it_where_draws_are_coherent() -> None:
    start = spine()
    start["label"][start["label"] == 3] = 0  # a body beyond the annotated levels
    start["image"][0, 46:54, 11:19] = 0.6
    transform = RandTissueContrastd("image", [BODIES, DISCS], 1.0, mix=(1.0, 1.0), jitter=0.0, coherence=1.0)
    for seed in range(5):
        new = transform.set_random_state(seed)(start)["image"]
        unlabeled, mean = new[0, 48:52, 13:17].mean(), transform._means[0]
        assert unlabeled == pytest.approx(mean, abs=0.1)
    apart_from_it = [abs(float(drawn(seed, start, coherence=0.0)[0, 48:52, 13:17].mean() - 0.6)) for seed in range(20)]
    assert max(apart_from_it) > 0.3


def test_the_slice_itself_is_mixed_in_by_the_drawn_weight() -> None:
    start = spine()["image"]
    whole, half = drawn(3), drawn(3, mix=(0.5, 0.5))
    torch.testing.assert_close(half, 0.5 * (start + whole), atol=0.02, rtol=0)  # clipping aside
    assert torch.equal(drawn(3, mix=(0.0, 0.0)), start)


def test_slices_without_label_or_tissue_are_left_as_they_are() -> None:
    start = spine()
    transform = RandTissueContrastd("image", [BODIES, DISCS], 1.0)
    assert torch.equal(transform({"image": start["image"]})["image"], start["image"])
    start["label"][:] = 255  # all to be ignored
    assert torch.equal(transform(start)["image"], start["image"])
    start["label"][:] = 7  # a code of no tissue
    assert torch.equal(transform(start)["image"], start["image"])


def test_a_slice_with_one_tissue_or_full_of_it_is_drawn_too() -> None:
    start = spine()
    start["label"][start["label"] > 10] = 0
    assert drawn(1, start).isfinite().all()
    start["label"][:] = 2
    new = drawn(1, start)
    assert new.isfinite().all() and new.min() >= 0 and new.max() <= 1


def test_labels_are_untouched_and_views_of_one_slice_differ() -> None:
    settings = {**OFF, "tissues": [BODIES, DISCS], "tissue_prob": 1.0}
    start = spine()
    out = labeled_augmentation(STILL, settings, strong_views=1).set_random_state(2)(start)
    assert torch.equal(out["label"], start["label"]) and out["image"].dtype == torch.float32
    assert not torch.equal(out["image"], out["image_strong"]) and not torch.equal(out["image"], start["image"])


def test_unlabeled_slices_get_curves_and_inversion_but_no_tissue_contrast() -> None:
    start = {"image": spine()["image"]}
    tissue = {**OFF, "tissues": [BODIES, DISCS], "tissue_prob": 1.0}
    same = unlabeled_augmentation(geometry=STILL, intensity=tissue).set_random_state(2)(start)
    torch.testing.assert_close(same["image_strong"], same["image"])
    curve = unlabeled_augmentation(geometry=STILL, intensity={**OFF, "curve_prob": 1.0}).set_random_state(2)(start)
    order = start["image"].flatten().argsort()
    assert (curve["image_strong"].flatten()[order].diff() >= -1e-6).all()  # monotone
    assert not torch.allclose(curve["image_strong"], curve["image"], atol=0.01)


def test_what_is_off_draws_nothing() -> None:
    """Present runs stay as they were, bit for bit: the parts that are on draw the same numbers."""
    before, zero = intensity_augmentation(), intensity_augmentation(tissues=[BODIES], tissue_prob=0.0, invert_prob=0.0)
    assert [type(t) for t in before.transforms] == [type(t) for t in zero.transforms] and len(before.transforms) == 5
    outputs = [transform.set_random_state(7)(spine())["image"] for transform in (before, zero)]
    assert torch.equal(*outputs)


def test_blur_smooths() -> None:
    start = {"image": torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))}
    out = intensity_augmentation(**OFF, blur_prob=1.0, blur_sigma=(1.0, 1.0)).set_random_state(0)(start)["image"]
    share = float(out.std() / start["image"].std())
    assert share == pytest.approx(1 / (2 * np.sqrt(np.pi)), abs=0.08)  # of white noise, sigma 1


def test_the_second_mean_moves_away_by_what_is_missing() -> None:
    np.testing.assert_allclose(apart(np.array([0.5, 0.6]), 0.15), [0.5, 0.65])
    np.testing.assert_allclose(apart(np.array([0.5, 0.4]), 0.15), [0.5, 0.35])
    np.testing.assert_allclose(apart(np.array([0.9, 0.92]), 0.15), [0.9, 0.75])  # no room above
    np.testing.assert_allclose(apart(np.array([0.1, 0.8]), 0.15), [0.1, 0.8])
    np.testing.assert_allclose(apart(np.array([0.1]), 0.15), [0.1])


def test_bad_tissues_are_refused() -> None:
    for tissues in ([], [[]], [[1, 2], [2, 3]], [[0, 1]], [[255]]):
        with pytest.raises(ValueError, match=r"tissues are .*Fix: any_contrast"):
            tissue_table(tissues)
    with pytest.raises(ValueError, match="tissues"):
        intensity_augmentation(tissue_prob=0.5)
    with pytest.raises(ValueError, match="min_difference"):
        RandTissueContrastd("image", [[1], [2]], 1.0, min_difference=0.6)


def test_a_tissue_that_the_anatomy_does_not_have_is_passed_over() -> None:
    start = spine()
    start["label"][start["label"] > 10] = 0
    alone, with_empty = (
        RandTissueContrastd("image", tissues, 1.0).set_random_state(4)(start)["image"]
        for tissues in ([BODIES], [BODIES, []])
    )
    assert torch.equal(alone, with_empty) and not torch.equal(alone, start["image"])
    discs = intensity_augmentation(**OFF, tissues=[[], DISCS], tissue_prob=1.0).set_random_state(4)(spine())["image"]
    assert discs.isfinite().all() and not torch.equal(discs, spine()["image"])
    with pytest.raises(ValueError, match=r"tissues are \[\[\], \[\]\].*kind vertebra and sacrum.*tissue_prob to 0"):
        intensity_augmentation(tissues=[[], []], tissue_prob=0.4)
    intensity_augmentation(tissues=[[], []], tissue_prob=0.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prob": 1.5}, "prob is 1.5; expected one number of 0 to 1"),
        ({"gain": (-0.3, 1.2)}, "gain is .*expected two numbers of 0 or more"),
        ({"gain": 0.5}, "gain is 0.5; expected two numbers"),
        ({"mix": (0.4, 2.0)}, "mix is .*expected two numbers of 0 to 1"),
        ({"coherence": -0.1}, "coherence is -0.1; expected one number of 0 to 1"),
        ({"knots": 2.5}, "knots is 2.5; expected one whole number of 1 or more"),
        ({"knots": 6.0}, "knots is 6.0; expected one whole number of 1 or more, without a decimal point"),
        ({"jitter": float("nan")}, "jitter is nan; expected one number of 0 or more"),
    ],
)
def test_a_tissue_contrast_by_itself_checks_its_numbers(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandTissueContrastd(**{"keys": "image", "tissues": [BODIES, DISCS], "prob": 1.0, **wrong})


@pytest.mark.parametrize("wrong", [{"prob": -0.1}, {"prob": "often"}, {"air": 1.5}, {"air": -0.1}])
def test_an_inversion_by_itself_checks_its_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*expected one number of 0 to 1"):
        RandInvertd(**{"keys": "image", "prob": 0.5, **wrong})
