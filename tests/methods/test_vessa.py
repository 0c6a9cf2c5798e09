"""VESSA by its card: its limits are UniMatch V2 and supervised learning; what the assistant is told, and when."""

from __future__ import annotations

import random

import pytest
import torch

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import PromptMapHandler
from cps4_monai.losses.semi_supervised import supervised_cross_entropy
from cps4_monai.losses.upsampled import UpsampledSegmentationLoss
from cps4_monai.methods import VESSA, UniMatchV2, VessaPretraining
from cps4_monai.networks import MaskedFeatures, ResUNet

CLASSES, SIZE = 4, 16


def make(cls=VESSA, total=4, **settings):
    torch.manual_seed(0)
    student = MaskedFeatures(ResUNet(1, CLASSES, features=(4, 8)))
    method = cls(student, torch.optim.SGD(student.parameters(), lr=0.1), **{"threshold": 0.3, **settings})
    method.total_updates = total
    return method


def batch(seed=0, **unlabeled):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(10, 1, SIZE, SIZE, generator=generator)
    label = torch.randint(0, CLASSES, (2, 1, SIZE, SIZE), generator=generator)
    views = {"image": image[2:4], "image_strong": image[4:6], "image_strong_2": image[6:8]}
    return {"labeled": {"image": image[:2], "label": label.to(torch.uint8)}, "unlabeled": {**views, **unlabeled}}


def one_hot(codes):
    return (codes == torch.arange(CLASSES).view(1, -1, 1, 1)).float()


def steps(method, batches):
    for index, item in enumerate(batches):
        torch.manual_seed(index)
        method.train()
        method.optimizers["student"].zero_grad()
        losses = method.losses(method.forward(item), item)
        losses["loss"].backward()
        method.optimizers["student"].step()
        method.after_step()
    return losses


@pytest.mark.parametrize("fusion", ["mix", "additional"])
def test_with_the_teachers_share_at_1_it_is_unimatch_v2_bit_by_bit(fusion):
    q = torch.rand(2, CLASSES, SIZE, SIZE).softmax(1)
    plain, vessa = make(UniMatchV2), make(teacher_share=1, fusion=fusion)
    assert not vessa.needs_prompt_map and make().needs_prompt_map
    steps(plain, [batch(s) for s in range(3)])
    steps(vessa, [batch(s, pseudo_probabilities=q) for s in range(3)])
    for mine, theirs in zip(plain.networks.values(), vessa.networks.values(), strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
        )


def test_a_share_of_1_reached_by_the_ramp_is_unimatch_v2_bit_by_bit_too():
    q = torch.rand(2, CLASSES, SIZE, SIZE).softmax(1)
    plain, vessa = make(UniMatchV2), make()
    vessa.updates = plain.updates = vessa.total_updates
    steps(plain, [batch()])
    losses = steps(vessa, [batch(pseudo_probabilities=q)])
    assert "agreement" in losses
    for mine, theirs in zip(plain.student.parameters(), vessa.student.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_an_assistant_that_knows_the_label_makes_the_strong_loss_supervised():
    truth = torch.randint(0, CLASSES, (2, 1, SIZE, SIZE))
    method = make(teacher_share=0.0, cutmix_probability=0.0, dropped_share=0.0, threshold=0.95)
    method.train()
    item = batch(pseudo_probabilities=one_hot(truth))
    outputs = method.forward(item)
    losses = method.losses(outputs, item)
    of_views = [supervised_cross_entropy(part, truth) for part in outputs["unlabeled_logits"].chunk(2)]
    torch.testing.assert_close(losses["loss_strong"], sum(of_views) / 2)
    assert losses["confident_fraction"] == 1


def test_the_assistant_leads_early_and_the_teacher_late():
    method = make(total=10)
    shares = []
    for method.updates in (0, 3, 10):
        shares.append(method.present_share)
    assert shares == [0.0, 0.3, 1.0]
    assert make(teacher_share=0.4).present_share == 0.4


def test_in_a_run_that_was_made_longer_the_assistant_has_no_negative_share():
    method = make(total=10)
    method.updates = 15
    assert method.present_share == 1.0


def test_the_target_is_the_weighted_sum_by_hand_and_both_must_agree_to_be_sure():
    method = make(teacher_share=0.5)
    teacher = torch.tensor([[0.9, 0.1, 0, 0], [0.9, 0.1, 0, 0]]).T.view(1, 4, 1, 2)
    assistant = torch.tensor([[0.98, 0.02, 0, 0], [0.0, 1.0, 0, 0]]).T.view(1, 4, 1, 2)
    method.teacher_probabilities = lambda _: teacher
    targets, logs = method.targets({"unlabeled": {"pseudo_probabilities": assistant}})
    assert targets["pseudo_label"].flatten().tolist() == [0, 1]
    torch.testing.assert_close(targets["confidence"].flatten(), torch.tensor([0.94, 0.55]))
    assert logs["agreement"] == 0.5 and logs["structure_agreement"] == 0.0


def test_beside_the_teachers_labels_the_assistants_own_confident_ones_count_by_its_share():
    truth = torch.randint(0, CLASSES, (2, 1, SIZE, SIZE))
    method = make(fusion="additional", teacher_share=0.25, cutmix_probability=0.0, dropped_share=0.0, threshold=0.95)
    unsure = truth.clone()
    q = torch.where(torch.arange(SIZE) < SIZE // 2, one_hot(truth), 0.5 * one_hot(truth) + 0.125)
    item = batch(pseudo_probabilities=q)
    outputs = method.forward(item)
    losses = method.losses(outputs, item)
    unsure[..., SIZE // 2 :] = -1  # none of its pixels reaches the threshold
    of_views = [supervised_cross_entropy(part, unsure) / 2 for part in outputs["unlabeled_logits"].chunk(2)]
    torch.testing.assert_close(losses["loss_assistant"], sum(of_views) / 2)  # mean over all pixels, half of them 0
    alone = (losses["loss_supervised"] + losses["loss_strong"]) / 2
    torch.testing.assert_close(losses["loss"], alone + 0.75 * losses["loss_assistant"])


def test_the_assistant_hears_the_student_from_a_share_of_the_run_on():
    class Listener:
        batch_keys = ("student_probabilities",)

        def __init__(self):
            self.heard = []

        def __call__(self, images, student_probabilities=None):
            self.heard.append(student_probabilities)
            q = torch.full((len(images), CLASSES, *images.shape[2:]), 1 / CLASSES)
            return {"prompt_map": q.argmax(1, keepdim=True), "pseudo_probabilities": q}

    for start, expected in ((0.5, [False, False, True, True]), (None, [False] * 4), (0.0, [True] * 4)):
        listener, method = Listener(), make(feedback_from=start)
        trainer = SemiSupervisedTrainer("cpu", 1, [batch(s) for s in range(4)], method)
        PromptMapHandler(listener).attach(trainer)
        trainer.run()
        assert [heard is not None for heard in listener.heard] == expected
        for heard in filter(lambda h: h is not None, listener.heard):
            torch.testing.assert_close(heard.sum(1), torch.ones(2, SIZE, SIZE))
    assert method.networks["student"].training


def test_wrong_settings_and_a_batch_without_the_assistants_answer_are_named():
    for wrong in ({"teacher_share": 1.5}, {"feedback_from": -1}, {"fusion": "sum"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(**wrong)
    with pytest.raises(ValueError, match=r"no pseudo_probabilities.*Fix: attach PromptMapHandler"):
        make().forward(batch())
    with pytest.raises(ValueError, match=r"pseudo_probabilities \(1, 2\)"):
        make().forward(batch(pseudo_probabilities=torch.zeros(1, 2)))


class Stub(torch.nn.Module):
    """An assistant's interface around one convolution; notes how it is called."""

    waits_for_device = False

    def __init__(self, text=False):
        super().__init__()
        self.net, self.text = torch.nn.Conv2d(1 + CLASSES, CLASSES, 4, stride=4), text
        self.register_buffer("features", torch.zeros(3, 2))
        self.refreshed, self.calls = 0, []

    def refresh(self):
        self.refreshed += 1
        self.features.copy_(self.net.weight.detach().flatten()[:6].view(3, 2))

    def forward(self, image, said, slice_id, count, without, with_text):
        self.calls.append((count, without, slice_id))
        logits = self.net(
            torch.cat((image, image.new_zeros(len(image), CLASSES, SIZE, SIZE) if said is None else said), 1)
        )
        logits = logits + count * self.features.sum()
        return logits, logits.square().mean() if self.text else None


def pretraining(text=False, **settings):
    torch.manual_seed(0)
    network = Stub(text)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    method = VessaPretraining(network, optimizer, UpsampledSegmentationLoss(), **settings)
    method.total_updates = 4
    return method, network


def run(method, batches):
    for item in batches:
        torch.manual_seed(method.updates)
        random.seed(method.updates)
        method.optimizers["model"].zero_grad()
        losses = method.losses(method.forward(item), item)
        losses["loss"].backward()
        method.optimizers["model"].step()
        method.after_step()
    return losses


def labeled(seed=0, count=2):
    item = batch(seed)["labeled"]
    return {"labeled": {**item, "slice_id": torch.arange(count)}}


def test_stage_1_total_is_the_sum_of_its_parts_and_text_is_weighed():
    method, _ = pretraining(text=True, text_weight=0.5)
    losses = run(method, [labeled()])
    torch.testing.assert_close(losses["loss"], losses["loss_segmentation"] + 0.5 * losses["loss_text"])
    assert run(pretraining()[0], [labeled()]).keys() == {"loss", "loss_segmentation"}


@pytest.mark.parametrize("code", [2, 255])
def test_stage_1_pixels_that_nobody_annotated_get_no_gradient(code):
    label, logits = labeled()["labeled"]["label"].clone(), torch.randn(2, CLASSES, SIZE, SIZE, requires_grad=True)
    label[:, :, :4] = code
    UpsampledSegmentationLoss(unannotated=(2,))(logits, label).backward()
    assert not logits.grad[:, :, :4].any() and not logits.grad[:, 2].any() and logits.grad[:, [0, 1, 3], 4:].any()


def test_stage_1_draws_templates_leaves_some_out_and_refreshes_by_shares_of_the_run():
    method, network = pretraining(refresh_share=0.5, without_template=0.25)
    item = {"labeled": {key: value.repeat(100, *[1] * (value.ndim - 1)) for key, value in labeled()["labeled"].items()}}
    run(method, [item] * 4)
    assert network.refreshed == 2 and {count for count, *_ in network.calls} <= {1, 2, 3}
    shares = [float(without.float().mean()) for _, without, _ in network.calls]
    assert all(0.1 < share < 0.4 for share in shares) and network.calls[0][2].shape == (200,)
    for _ in range(2):
        method.forward(labeled())  # two batches of one accumulated step
    assert network.refreshed == 3


def test_stage_1_resumed_between_refreshes_goes_on_bit_by_bit(tmp_path):
    straight, _ = pretraining(refresh_share=0.5)
    run(straight, [labeled(s) for s in range(4)])
    first, _ = pretraining(refresh_share=0.5)
    run(first, [labeled(s) for s in range(3)])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, network = pretraining(refresh_share=0.5)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(second, [labeled(3)])
    assert network.refreshed == 0
    expected = straight.networks["model"].state_dict()
    assert all(torch.equal(expected[key], value) for key, value in network.state_dict().items())


def test_stage_1_refuses_settings_out_of_range():
    for wrong in ({"without_template": 2.0}, {"refresh_share": 0.0}, {"text_weight": -1.0}, {"max_templates": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} "):
            pretraining(**wrong)
