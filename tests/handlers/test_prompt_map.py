"""The prompt-map handler: what reaches the batch, under which conditions the provider runs."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import PromptMapHandler
from cps4_monai.methods import CPS4, MeanTeacher
from cps4_monai.networks import ResUNet
from cps4_monai.precision import Precision


class Provider:
    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append((images, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        maps = torch.zeros_like(images, dtype=torch.long)
        return {"prompt_map": maps, "attention_logits": torch.zeros(len(images), 3, 2, 2), "extra": maps}


def trainer_of(handler, cls=CPS4, batch=None, **settings):
    student = ResUNet(1, 3, features=(4, 8))
    method = cls(student, torch.optim.SGD(student.parameters(), lr=0.1))
    image = torch.rand(2, 1, 8, 8)
    half = {"image": image, "label": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}
    loader = [batch or {"labeled": half, "unlabeled": {"image": image, "image_strong": image + 1}}]
    return SemiSupervisedTrainer("cpu", 1, loader, method, train_handlers=[handler], **settings)


def test_maps_of_the_weak_view_join_the_batch_and_all_else_that_comes():
    provider = Provider()
    trainer = trainer_of(PromptMapHandler(provider))
    trainer.run()
    unlabeled = trainer.state.batch["unlabeled"]
    assert {"image", "image_strong", "prompt_map", "attention_logits", "extra"} == set(unlabeled)
    assert provider.calls[0][0] is unlabeled["image"]


def test_the_loaders_own_batch_stays_as_it_was():
    trainer = trainer_of(PromptMapHandler(Provider()))
    trainer.run()
    assert set(trainer.data_loader[0]["unlabeled"]) == {"image", "image_strong"}


@pytest.mark.parametrize("amp", [False, True])
def test_provider_runs_without_gradient_and_in_the_engines_precision(amp):
    provider = Provider()
    trainer_of(PromptMapHandler(provider), precision=Precision("cpu", amp, "bfloat16")).run()
    assert provider.calls[0][1:] == (False, amp)


def test_provider_gets_the_entries_that_it_names():
    class Keyed:
        batch_keys = ("image_strong", "absent")

        def __call__(self, images, **extra):
            assert set(extra) == {"image_strong"} and torch.equal(extra["image_strong"], images + 1)
            return {"prompt_map": torch.zeros_like(images, dtype=torch.long)}

    trainer_of(PromptMapHandler(Keyed())).run()


def test_methods_without_a_prompt_map_do_not_pay_for_one():
    provider = Provider()
    trainer_of(PromptMapHandler(provider), cls=MeanTeacher).run()
    assert provider.calls == []


def test_provider_weights_are_in_no_state():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vision = torch.nn.Linear(1, 1)

        def forward(self, images):
            return Provider()(images)

    trainer = trainer_of(PromptMapHandler(Model()))
    assert not [key for key in trainer.method.state_dict()["networks"]["student"] if "vision" in key]


def test_missing_images_and_missing_maps_are_named():
    half = {"image": torch.zeros(2, 1, 8, 8), "label": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="choose the method 'supervised'"):
        trainer_of(PromptMapHandler(Provider()), batch={"labeled": half}).run()
    with pytest.raises(ValueError, match=r"returned \['maps'\]"):
        trainer_of(PromptMapHandler(lambda images: {"maps": images})).run()
