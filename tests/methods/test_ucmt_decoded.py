"""UCMT with decoded pseudo-labels: its limits, what both students learn, and what is exchanged with the patches."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cps4_monai.losses.semi_supervised import IGNORE
from cps4_monai.methods import UCMT, DecodedUCMT
from cps4_monai.networks import ResUNet, StudentPair


def make(cls=DecodedUCMT, **settings):
    torch.manual_seed(0)
    pair = StudentPair(ResUNet(1, 4, features=(4, 8)), seed=1)
    method = cls(pair, torch.optim.SGD(pair.parameters(), lr=0.1), grid=4, ramp_share=0.0, **settings)
    method.total_updates = 2
    method.train()
    return method


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(8, 1, 16, 16, generator=generator)
    label, decoded = torch.randint(0, 4, (2, 2, 1, 16, 16), generator=generator)
    unlabeled = {"image": image[2:4], "image_strong": image[4:6], "image_strong_2": image[6:], "decoded_map": decoded}
    return {"labeled": {"image": image[:2], "label": label.to(torch.uint8)}, "unlabeled": unlabeled}


def test_both_students_learn_from_the_decoded_labels_by_hand(batch):
    method = make(decoded_weight=0.5)
    batch["unlabeled"]["decoded_map"][:, :, :3] = IGNORE
    outputs = method.forward(batch)
    losses = method.losses(outputs, batch)
    target = batch["unlabeled"]["decoded_map"][:, 0]
    expected = sum(
        F.cross_entropy(outputs[f"{name}_unlabeled_logits"], target, ignore_index=IGNORE)
        for name in ("first", "second")
    )
    torch.testing.assert_close(losses["loss_decoded"], expected)
    rest = losses["loss_supervised"] + 0.1 * (losses["loss_cross"] + losses["loss_teacher"])
    torch.testing.assert_close(losses["loss"], rest + 0.5 * expected)


@pytest.mark.parametrize("settings", [{"decoded_weight": 0.0}, {}])
def test_without_weight_and_without_targets_it_is_ucmt_bit_by_bit(batch, settings):
    if not settings:
        batch["unlabeled"]["decoded_map"].fill_(IGNORE)  # as before the first decoding
    ours, plain = make(**settings), make(UCMT)
    for ours_step, plain_step in zip(ours.steps(batch), plain.steps(batch), strict=True):
        assert ours.losses(ours_step, batch)["loss"] == plain.losses(plain_step, batch)["loss"]


def test_the_decoded_labels_are_exchanged_with_their_patches(batch):
    """In the second step every pixel's decoded label is still that of the pixel that stands there."""
    method = make()
    picture = torch.arange(2.0 * 16 * 16).view(2, 1, 16, 16)
    batch["unlabeled"]["image_strong"] = picture / 512
    batch["unlabeled"]["decoded_map"] = (picture // 37 % 4).long()
    seen = []
    forward = method.forward
    method.forward = lambda given: seen.append(given["unlabeled"]) or forward(given)
    list(method.steps(batch))
    first, second = seen
    assert not torch.equal(first["decoded_map"], second["decoded_map"])
    assert torch.equal((second["image_strong"] * 512).round() // 37 % 4, second["decoded_map"].float())


def test_a_batch_without_decoded_labels_and_a_negative_weight_are_refused(batch):
    with pytest.raises(ValueError, match="decoded_weight is -1"):
        make(decoded_weight=-1)
    del batch["unlabeled"]["decoded_map"]
    with pytest.raises(ValueError, match="attach DecodedLabels"):
        make().forward(batch)
