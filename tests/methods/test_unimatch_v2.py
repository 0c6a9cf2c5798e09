"""UniMatch V2 by its card: complementary masks, the mean over all pixels, CutMix, the supervised limit."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.losses.semi_supervised import supervised_cross_entropy
from cps4_monai.methods import UniMatchV2
from cps4_monai.methods.unimatch_v2 import complementary_masks
from cps4_monai.networks import MaskedFeatures, ResUNet


def make(**settings) -> UniMatchV2:
    torch.manual_seed(0)
    student = MaskedFeatures(ResUNet(1, 4, features=(4, 8)))
    return UniMatchV2(student, torch.optim.SGD(student.parameters(), lr=0.1), **settings)


def test_masks_of_both_views_add_up_and_half_of_the_slices_are_untouched():
    for mask in complementary_masks(8, (16, 32), 0.5, torch.device("cpu")):
        first, second = mask.chunk(2)
        assert torch.equal((first + second) / 2, torch.ones_like(first))
        assert set(mask.unique().tolist()) == {0.0, 1.0, 2.0}
        assert int((first == 1).flatten(1).all(1).sum()) == 4


def test_of_one_slice_a_share_is_masked_as_often_as_the_share_says():
    for count, share in ((1, 0.5), (3, 0.5), (5, 0.3)):
        masked = [
            int((complementary_masks(count, (16,), share, torch.device("cpu"))[0][:count] != 1).flatten(1).any(1).sum())
            for _ in range(400)
        ]
        assert max(masked) - min(masked) <= 1
        assert sum(masked) / 400 == pytest.approx(count * share, abs=0.1)


def test_the_same_half_of_the_slices_is_untouched_on_every_level():
    masks = complementary_masks(8, (16, 32, 64), 0.5, torch.device("cpu"))
    touched = [(mask != 1).flatten(1).any(1) for mask in masks]
    assert all(torch.equal(level, touched[0]) for level in touched)


def test_masks_reach_the_decoder_and_ones_change_nothing():
    student = MaskedFeatures(ResUNet(1, 4, features=(4, 8))).eval()
    image = torch.rand(2, 1, 8, 8)
    ones = [torch.ones(2, channels, 1, 1) for channels in (4, 8)]
    torch.testing.assert_close(student(image, masks=ones), student.backbone(image))
    assert not torch.allclose(student(image, masks=[ones[0], 0 * ones[1]]), student.backbone(image))


def test_the_loss_is_the_mean_over_all_pixels_not_over_the_confident_ones():
    method = make(threshold=0.95)
    logits = torch.zeros(1, 4, 1, 4)
    outputs = {
        "labeled_logits": logits,
        "unlabeled_logits": logits,
        "pseudo_label": torch.zeros(1, 1, 1, 4, dtype=torch.int64),
        "confidence": torch.tensor([0.99, 0.96, 0.90, 0.50]).view(1, 1, 1, 4),
    }
    batch = {"labeled": {"label": torch.zeros(1, 1, 1, 4, dtype=torch.uint8)}, "unlabeled": {}}
    losses = method.losses(outputs, batch)
    log4 = torch.tensor(4.0).log()
    torch.testing.assert_close(losses["loss_strong"], log4 / 2)  # two of four pixels count, each ln 4
    torch.testing.assert_close(losses["loss"], (log4 + log4 / 2) / 2)
    assert losses["confident_fraction"] == 0.5


def test_cutmix_changes_view_label_and_confidence_in_the_same_pixels_with_the_mirrored_slice():
    method = make(cutmix_probability=1.0)
    view = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 20, 20)
    mixed, codes, confidence = method._cutmix(view, view.long(), view / 10)
    assert torch.equal(mixed, codes.float()) and torch.equal(mixed, (confidence * 10).round())
    assert all(set(mixed[index].unique().tolist()) == {float(index), float(3 - index)} for index in range(4))
    assert torch.equal(make(cutmix_probability=0.0)._cutmix(view, view.long(), view)[0], view)


def test_each_view_is_mixed_with_its_own_targets_by_rectangles_of_its_own():
    """Slice i is of intensity i in both views and of class i: what the student sees is what it is told to say."""
    method, seen = make(cutmix_probability=1.0, dropped_share=0.0), []
    codes = torch.arange(4).view(4, 1, 1, 1).expand(4, 1, 20, 20)
    method.targets = lambda _: ({"pseudo_label": codes, "confidence": codes / 10}, {})
    method.networks["student"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    views = dict.fromkeys(("image", "image_strong", "image_strong_2"), codes.float())
    outputs = method.forward({"labeled": {"image": torch.rand(2, 1, 20, 20)}, "unlabeled": views})
    assert torch.equal(seen[1], outputs["pseudo_label"].float())
    assert torch.equal((outputs["confidence"] * 10).round(), seen[1])
    first, second = seen[1].chunk(2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("batch_statistics", ["separate", "joint"])
def test_above_every_confidence_its_gradients_are_half_of_those_of_the_labels(batch_statistics):
    """Of a network whose batch norm sees no batch; in training the unlabeled slices change its statistics if joint."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(8, 1, 8, 8, generator=generator)
    label = torch.randint(0, 4, (2, 1, 8, 8), generator=generator).to(torch.uint8)
    views = dict(zip(("image", "image_strong", "image_strong_2"), image[2:].split(2), strict=True))
    batch = {"labeled": {"image": image[:2], "label": label}, "unlabeled": views}
    method = make(threshold=1.01, batch_statistics=batch_statistics)
    student = method.networks["student"].eval()
    losses = method.losses(method.forward(batch), batch)
    losses["loss"].backward()
    ours = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    (supervised_cross_entropy(student(image[:2]), label) / 2).backward()
    assert losses["confident_fraction"] == 0 and losses["loss_strong"] == 0
    for mine, p in zip(ours, student.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)


def test_targets_are_the_teachers_of_the_weak_view():
    method, views = (
        make(),
        dict(zip(("image", "image_strong", "image_strong_2"), torch.rand(3, 2, 1, 8, 8), strict=True)),
    )
    with torch.no_grad():
        method.teacher.head.weight.mul_(20)  # at the start it is the student's
    targets, _ = method.targets({"unlabeled": views})
    confidence, label = method.teacher(views["image"]).softmax(1).max(1, keepdim=True)
    torch.testing.assert_close(targets["confidence"], confidence)
    assert torch.equal(targets["pseudo_label"], label)
    others = (method.student_probabilities(views["image"]), method.teacher(views["image_strong"]).softmax(1))
    assert not any(torch.allclose(other.amax(1, keepdim=True), confidence) for other in others)


def test_only_a_network_that_takes_masks_and_a_batch_with_two_views_will_do():
    plain = ResUNet(1, 4, features=(4, 8))
    with pytest.raises(TypeError, match=r"expected cps4_monai\.networks\.MaskedFeatures"):
        UniMatchV2(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    image = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="strong_views: 2"):
        make().forward({"labeled": {"image": image}, "unlabeled": {"image": image, "image_strong": image}})
    for wrong in ({"threshold": -1.0}, {"cutmix_probability": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(**wrong)
