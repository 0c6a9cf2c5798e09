"""CPS4 with a prior or a text loss on the grid: what each replaces, and what it then reads of the batch."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.losses.attention_prior import AttentionPrior
from cps4_monai.losses.grid_text import GridTextLoss
from cps4_monai.losses.semi_supervised import enhance_cross_entropy, map_confidence, text_cross_entropy
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


def test_the_prior_makes_the_target_of_the_enhanced_term_only(batch):
    prior = AttentionPrior(confidence=0.3)
    outputs, with_prior = losses(batch, prior=prior)
    target = prior(outputs["teacher_logits"], batch["unlabeled"]["attention_logits"])
    torch.testing.assert_close(with_prior["loss_enhance"], enhance_cross_entropy(outputs["unlabeled_logits"], target))
    text = text_cross_entropy(outputs["unlabeled_logits"], batch["unlabeled"]["prompt_map"])
    torch.testing.assert_close(with_prior["loss_text"], text)


def test_the_grid_text_loss_replaces_the_one_against_the_prompt_map(batch):
    _, plain = losses(batch)
    outputs, on_grid = losses(batch, grid_text=GridTextLoss())
    expected = GridTextLoss()(outputs["unlabeled_logits"], batch["unlabeled"]["attention_logits"])
    torch.testing.assert_close(on_grid["loss_text"], expected)
    torch.testing.assert_close(on_grid["loss_enhance"], plain["loss_enhance"])


def test_the_target_alone_needs_the_maps_but_no_prompt_map(batch):
    del batch["unlabeled"]["prompt_map"]
    _, alone = losses(batch, text_weight=0.0, enhanced_target="teacher", prior=AttentionPrior())
    assert "loss_text" not in alone and alone["loss"].isfinite()
    with pytest.raises(ValueError, match="no prompt_map; attach PromptMapHandler"):
        losses(batch, prior=AttentionPrior())


def test_missing_maps_say_how_to_mend(batch):
    del batch["unlabeled"]["attention_logits"]
    for setting in ({"prior": AttentionPrior()}, {"grid_text": GridTextLoss()}):
        with pytest.raises(ValueError, match="no attention_logits; attach PromptMapHandler"):
            losses(batch, **setting)


def test_the_provider_is_asked_for_the_prior_alone():
    student = ResUNet(1, 4, features=(4, 8))
    settings = {"text_weight": 0.0, "enhanced_target": "teacher"}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    assert CPS4Levers(student, optimizer, prior=AttentionPrior(), **settings).needs_prompt_map
    assert not CPS4Levers(student, optimizer, **settings).needs_prompt_map


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


@pytest.mark.parametrize("wrong", [{"text_confidence": "tanh"},
                                   {"text_confidence": "sigmoid", "grid_text": GridTextLoss()}])  # fmt: skip
def test_confidence_without_a_text_loss_of_pixels_is_refused(batch, wrong):
    with pytest.raises(ValueError, match="text_confidence"):
        losses(batch, **wrong)
