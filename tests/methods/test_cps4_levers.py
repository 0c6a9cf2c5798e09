"""CPS4 with a text loss on the grid or weighted by the maps: what each replaces, and what it reads of the batch."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.losses.grid_text import GridTextLoss
from cps4_monai.losses.semi_supervised import map_confidence, text_cross_entropy
from cps4_monai.methods import CPS4Levers
from cps4_monai.networks import ResUNet


def losses(batch, **settings):
    torch.manual_seed(0)
    student = ResUNet(1, 4, features=(4, 8))
    method = CPS4Levers(student, torch.optim.SGD(student.parameters(), lr=0.1), **settings)
    method.train()
    outputs = method.forward(batch)
    return outputs, method.losses(outputs, batch)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(6, 1, 8, 8, generator=generator)
    label = torch.randint(0, 4, (4, 1, 8, 8), generator=generator)
    maps = torch.randn(2, 4, 2, 2, generator=generator)
    unlabeled = {"image": image[2:4], "image_strong": image[4:6], "prompt_map": label[2:], "attention_logits": maps}
    return {"labeled": {"image": image[:2], "label": label[:2].to(torch.uint8)}, "unlabeled": unlabeled}


def test_the_grid_text_loss_replaces_the_one_against_the_prompt_map(batch):
    _, plain = losses(batch)
    outputs, on_grid = losses(batch, grid_text=GridTextLoss())
    expected = GridTextLoss()(outputs["unlabeled_logits"], batch["unlabeled"]["attention_logits"])
    torch.testing.assert_close(on_grid["loss_text"], expected)
    torch.testing.assert_close(on_grid["loss_enhance"], plain["loss_enhance"])


def test_missing_maps_name_the_handler_that_brings_them(batch):
    del batch["unlabeled"]["attention_logits"]
    with pytest.raises(ValueError, match="no attention_logits; attach PromptMapHandler"):
        losses(batch, grid_text=GridTextLoss())


def test_a_text_loss_on_the_grid_asks_the_provider_for_the_maps_alone(batch):
    del batch["unlabeled"]["prompt_map"]
    _, alone = losses(batch, grid_text=GridTextLoss(), enhanced_target="teacher")
    assert alone["loss"].isfinite()
    with pytest.raises(ValueError, match="no prompt_map; attach PromptMapHandler"):
        losses(batch, grid_text=GridTextLoss())


def test_confidence_of_the_maps_weighs_the_text_loss(batch):
    unlabeled = batch["unlabeled"]
    outputs, weighed = losses(batch, text_confidence="sigmoid")
    confidence = map_confidence(unlabeled["prompt_map"], unlabeled["attention_logits"])
    expected = text_cross_entropy(outputs["unlabeled_logits"], unlabeled["prompt_map"], confidence=confidence)
    torch.testing.assert_close(weighed["loss_text"], expected)
    assert weighed["loss_text"] < losses(batch)[1]["loss_text"]
    del unlabeled["attention_logits"]
    with pytest.raises(ValueError, match="no attention_logits"):
        losses(batch, text_confidence="sigmoid")


@pytest.mark.parametrize(
    "wrong", [{"text_confidence": "tanh"}, {"text_confidence": "sigmoid", "grid_text": GridTextLoss()}]
)
def test_confidence_without_a_text_loss_of_pixels_is_refused(batch, wrong):
    with pytest.raises(ValueError, match="text_confidence"):
        losses(batch, **wrong)
