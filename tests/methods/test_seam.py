"""What the seam itself offers: extra state, several steps, listening providers, gradients beside the step, stage 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import PromptMapHandler
from cps4_monai.methods import MeanTeacher, Supervised
from cps4_monai.methods.input_gradients import input_gradient
from cps4_monai.networks import ResUNet, parameter_groups


class Remembers(Supervised):
    """Keeps the mean of the last labeled images."""

    def __init__(self, *args, slots: int = 3, **settings):
        super().__init__(*args, **settings)
        self.memory = torch.zeros(slots)

    def extra_state(self):
        return {"memory": self.memory}


def make(cls=Remembers, **settings):
    torch.manual_seed(0)
    student = ResUNet(1, 3, features=(4, 8))
    return cls(student, torch.optim.SGD(student.parameters(), lr=0.1), **settings)


def test_extra_state_comes_back_in_place_and_old_checkpoints_leave_it():
    method = make()
    method.memory.fill_(7.0)
    again = make()
    tensor = again.memory
    again.load_state_dict(method.state_dict())
    assert again.memory is tensor and (tensor == 7).all()
    old = {key: value for key, value in method.state_dict().items() if key not in ("extra", "total_updates")}
    fresh = make()
    fresh.load_state_dict(old)
    assert (fresh.memory == 0).all()
    with pytest.raises(ValueError, match="run with other settings"):
        make(slots=4).load_state_dict(method.state_dict())


@pytest.mark.parametrize(("given", "message"), [(1, "gives fewer"), (3, "gives more")])
def test_steps_that_do_not_agree_with_their_number_are_refused(given, message):
    class Wrong(Supervised):
        steps_per_batch = 2

        def steps(self, batch):
            for _ in range(given):
                yield self.forward(batch)

    half = {"image": torch.rand(2, 1, 8, 8), "label": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=message):
        SemiSupervisedTrainer("cpu", 1, [{"labeled": half}], make(Wrong)).run()


def test_a_provider_that_listens_is_told_what_the_student_says():
    class Listens:
        batch_keys = ("student_probabilities",)

        def __call__(self, images, student_probabilities):
            self.heard = student_probabilities
            codes = student_probabilities.argmax(1, keepdim=True)
            return {"prompt_map": codes, "pseudo_probabilities": student_probabilities}

    class Reads(MeanTeacher):
        needs_prompt_map = True

    provider, method = Listens(), make(Reads, unannotated=(2,))
    image = torch.rand(2, 1, 8, 8)
    half = {"image": image, "label": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}
    loader = [{"labeled": half, "unlabeled": {"image": image}}]
    before = {key: value.clone() for key, value in method.student.state_dict().items()}
    trainer = SemiSupervisedTrainer("cpu", 1, loader, method, train_handlers=[PromptMapHandler(provider)])
    trainer.run()
    assert "pseudo_probabilities" in trainer.state.batch["unlabeled"]
    assert (
        provider.heard.shape == (2, 3, 8, 8) and not provider.heard.requires_grad and (provider.heard[:, 2] == 0).all()
    )
    plain = ResUNet(1, 3, features=(4, 8))
    plain.load_state_dict(before)
    logits = plain.eval()(image)[:, :2]
    torch.testing.assert_close(provider.heard[:, :2], logits.softmax(1))


def test_gradients_of_pictures_leave_parameters_and_statistics_alone():
    network = ResUNet(1, 3, features=(4, 8)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = torch.rand(2, 1, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        gradient = input_gradient(network, image, lambda logits: logits.square().mean())
    assert gradient.shape == image.shape and gradient.dtype == torch.float32 and gradient.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.train()(image)
    assert not torch.equal(network.state_dict()["encoder.0.norm1.running_mean"], before["encoder.0.norm1.running_mean"])
    linear = nn.Conv2d(1, 1, 1, bias=False)
    torch.testing.assert_close(
        input_gradient(linear, image, lambda out: out.sum()), linear.weight.detach().expand(2, 1, 8, 8)
    )


def test_parameter_groups_by_name_with_factors():
    network = ResUNet(1, 3, features=(4, 8))
    (single,) = parameter_groups(network, 0.1)
    assert single["lr"] == 0.1 and len(single["params"]) == len(list(network.parameters()))
    rest, decoder, head = parameter_groups(network, 0.1, {"decoder": 40.0, "head": 0.5})
    assert (rest["lr"], decoder["lr"], head["lr"]) == (0.1, 4.0, 0.05)
    assert head["params"] == list(network.head.parameters())
    assert sum(len(group["params"]) for group in (rest, decoder, head)) == len(single["params"])
    with pytest.raises(ValueError, match=r"\['decodr'\], which no parameter has; the network's parts are"):
        parameter_groups(network, 0.1, {"decodr": 2.0})
    with pytest.raises(ValueError, match="factors of 0 or more"):
        parameter_groups(network, 0.1, {"head": -1.0})
