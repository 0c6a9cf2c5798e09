"""Mixing methods on labels with pixels that nobody annotated (255): they stay unannotated where they are pasted."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.methods import BCP, UCMT
from cps4_monai.networks import ResUNet, StudentPair

CLASSES, SIZE = 3, 16


def batch():
    torch.manual_seed(1)
    label = torch.randint(0, CLASSES, (4, 1, SIZE, SIZE), dtype=torch.uint8)
    label[:, :, :, ::3] = 255
    labeled = {"image": torch.rand(4, 1, SIZE, SIZE), "label": label}
    views = {name: torch.rand(4, 1, SIZE, SIZE) for name in ("image", "image_strong", "image_strong_2")}
    return {"labeled": labeled, "unlabeled": views}


def make(cls, wrap=lambda network: network, **settings):
    torch.manual_seed(0)
    network = wrap(ResUNet(1, CLASSES, features=(4, 8)))
    method = cls(network, torch.optim.SGD(network.parameters(), lr=0.1), **settings)
    method.total_updates = 8
    method.train()
    return method


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
@pytest.mark.parametrize("pretrain_fraction", [0.0, 1.0])
def test_pasted_pixels_give_no_loss(pretrain_fraction, dice_weight):
    method, content = make(BCP, pretrain_fraction=pretrain_fraction, dice_weight=dice_weight), batch()
    outputs = method.forward(content)
    logits = {name: value.detach().requires_grad_() for name, value in outputs.items() if name.endswith("_logits")}
    method.losses({**outputs, **logits}, content)["loss_supervised"].backward()
    first, second = content["labeled"]["label"].chunk(2)
    patch = outputs["patch"]
    sources = {
        "mixed_logits": torch.where(patch, second, first),
        "in_logits": first.where(patch, 255),
        "out_logits": second.where(~patch, 255),
    }
    for name, value in logits.items():
        touched = value.grad.abs().sum(1, keepdim=True) > 0
        assert torch.equal(touched, sources[name] != 255)


def test_exchanged_pixels_give_no_loss():
    method, content = make(UCMT, StudentPair, grid=4, exchanged=3, dice_weight=0.0), batch()
    _, exchanged = method.steps(content)
    label = exchanged["label"]
    assert not torch.equal(label, content["labeled"]["label"]) and (label == 255).any()
    logits = exchanged["first_labeled_logits"].detach().requires_grad_()
    method.losses({**exchanged, "first_labeled_logits": logits}, content)["loss_supervised"].backward()
    assert torch.equal(logits.grad.abs().sum(1, keepdim=True) > 0, label != 255)
    assert (exchanged["pseudo_label"] < CLASSES).all()  # of the teacher, never of a label map
