"""DuSSS, stage 2: fusion, who learns from what, the mean teacher as a limit, resuming, the frozen encoder."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.losses.dice import segmentation_loss
from cps4_monai.methods import DuSSS
from cps4_monai.methods.dusss import fuse
from cps4_monai.methods.pixel_affinity import pixel_affinity
from cps4_monai.networks import ResUNet, TextGuided, TextGuidedDecoder, parameter_groups
from cps4_monai.networks.text_guided import Said
from cps4_monai.vision import VisionEncoder
from cps4_monai.vision.prompted import PromptedVision

CLASSES = 4


@pytest.fixture(scope="module")
def vision():
    torch.manual_seed(5)
    encoder = VisionEncoder("vit_tiny_patch16_224", (16, 16), False, patch_size=4, embed_dim=12, depth=1, num_heads=2)
    return PromptedVision(encoder, torch.randn(CLASSES, 6))


def plain_network() -> ResUNet:
    torch.manual_seed(0)
    return ResUNet(1, CLASSES, features=(4, 8))


@pytest.fixture
def make(vision):
    def build(**settings) -> DuSSS:
        network = TextGuided(plain_network(), vision, width=8)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        return DuSSS(network, optimizer, vision, **{"ramp_share": 0.0, **settings})

    return build


def batch(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(6, 1, 16, 16, generator=generator)
    label = torch.randint(0, CLASSES, (2, 1, 16, 16), generator=generator).to(torch.uint8)
    return {
        "labeled": {"image": image[:2], "label": label},
        "unlabeled": {"image": image[2:4], "image_strong": image[4:]},
    }


def step(method: DuSSS, *given) -> list[dict[str, torch.Tensor]]:
    seen = []
    trainer = SemiSupervisedTrainer("cpu", 1, list(given), method)
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output[0]))
    trainer.run()
    return seen


def test_a_ramp_in_steps_which_it_would_pass_over_is_refused(make):
    with pytest.raises(ValueError, match=r"ramp_up_updates is 40.*set its ramp_share"):
        make(ramp_up_updates=40)


def test_two_equal_opinions_are_their_fusion_and_a_share_weighs_different_ones():
    teacher = torch.rand(2, 3, 8, 8).softmax(1)
    torch.testing.assert_close(fuse(teacher, teacher, 0.5), teacher)
    assert torch.equal(fuse(torch.rand(2, 3, 4, 4), teacher, 0.0), teacher)
    text = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    said = fuse(text, torch.tensor([0.3, 0.7]).view(1, 2, 1, 1).expand(1, 2, 4, 4), 0.5)
    torch.testing.assert_close(said[0, :, 1, 2], torch.tensor([0.6, 0.4]))


def test_without_text_it_is_the_mean_teacher_with_hard_labels(vision):
    """g = 0 and no text loss, worked out here step by step."""
    student = plain_network()
    method = DuSSS(
        student, torch.optim.SGD(student.parameters(), lr=0.1), text_share=0.0, text_weight=0.0, ramp_share=0.0
    )
    ours, teacher = plain_network(), plain_network().eval()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    given = [batch(seed) for seed in range(3)]
    seen = step(method, *given)
    ours.train()
    for index, one in enumerate(given):
        with torch.no_grad():
            pseudo = teacher(one["unlabeled"]["image"]).argmax(1, keepdim=True)
        loss = segmentation_loss(ours(one["labeled"]["image"]), one["labeled"]["label"])
        loss = (loss + segmentation_loss(ours(one["unlabeled"]["image_strong"]), pseudo)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(seen[index]["loss"], loss.detach())
        decay = min(1 - 1 / (index + 1), 0.99)
        with torch.no_grad():
            for mine, theirs in zip(teacher.parameters(), ours.parameters(), strict=True):
                mine.copy_(decay * mine + (1 - decay) * theirs)
            for mine, theirs in zip(teacher.buffers(), ours.buffers(), strict=True):
                mine.copy_(theirs)
    for mine, theirs in zip(method.teacher.parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_student_and_decoder_learn_from_their_own_losses_only(make):
    method = make()
    method.train()
    given = batch()
    losses = method.losses(method.forward(given), given)
    network = method.networks["student"]
    of_text = losses["loss_text"] + losses["loss_text_teacher"] + losses["loss_text_contrast"]
    of_text.backward(retain_graph=True)
    assert all(p.grad is None for p in network.backbone.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.text_decoder.parameters())
    network.zero_grad(set_to_none=True)
    (losses["loss_supervised"] + losses["loss_pseudo"]).backward()
    assert all(p.grad is None for p in network.text_decoder.parameters())
    assert all(p.grad is not None for p in network.backbone.parameters())


def test_the_pseudo_label_is_the_argmax_of_refined_text_and_teacher(make):
    given = batch()
    method = make(text_share=0.4, affinity_rounds=0, unannotated=(2,))
    outputs = method.forward(given)
    kept = torch.tensor([0, 1, 3])
    text = F.interpolate(outputs["text_unlabeled_logits"][:, kept].softmax(1), size=(16, 16), mode="bilinear")
    mean = 0.4 * text + 0.6 * outputs["teacher_logits"][:, kept].softmax(1)
    assert torch.equal(outputs["pseudo_label"], kept[mean.argmax(1, keepdim=True)])
    assert not torch.equal(
        make().forward(given)["pseudo_label"], make(affinity_rounds=0).forward(given)["pseudo_label"]
    )


def test_the_text_is_refined_by_the_weak_view_and_learns_from_the_teacher(make):
    given, method = batch(), make()
    with torch.no_grad():
        method.teacher.head.weight.mul_(20)
    outputs = method.forward(given)
    text, teacher = outputs["text_unlabeled_logits"], outputs["teacher_logits"]
    refined = pixel_affinity(text.softmax(1), given["unlabeled"]["image"], 10, (1, 2))
    assert torch.equal(outputs["pseudo_label"], fuse(refined, teacher.softmax(1), 0.5).argmax(1, keepdim=True))
    expected = segmentation_loss(F.interpolate(text, (16, 16), mode="bilinear"), teacher.argmax(1, keepdim=True))
    torch.testing.assert_close(method.losses(outputs, given)["loss_text_teacher"], expected)


def test_text_masks_are_the_attention_logits_upsampled_and_corrected(vision):
    decoder, tokens = TextGuidedDecoder(6, CLASSES, width=8), vision.project(torch.rand(2, 1, 16, 16))
    said = Said(tokens, vision.logits(tokens), vision.embeddings)
    masks = decoder(said)
    coarse = F.interpolate(said.attention_logits, scale_factor=4, mode="bilinear")
    correction = 10 * torch.einsum("bdhw,cd->bchw", masks.features, masks.prompts)
    torch.testing.assert_close(masks.logits, coarse + correction)


@pytest.mark.parametrize("code", [2, 255])
def test_pixels_that_nobody_annotated_give_the_decoder_no_gradient(make, code):
    """On the decoder's own grid: 4 x 4 of its pixels have no annotated neighbour."""
    given = batch()
    given["labeled"]["label"][:, :, :8, :8] = code
    method = make(unannotated=(2,), contrast_weight=0.0)
    outputs = method.forward(given)
    logits = outputs["text_labeled_logits"].detach().requires_grad_()
    assert logits.shape[2:] == (16, 16)
    method.losses({**outputs, "text_labeled_logits": logits}, given)["loss_text"].backward()
    assert logits.grad[:, :, :8, :8].abs().sum() == 0 and logits.grad[:, :, 8:].abs().sum() > 0
    assert logits.grad[:, 2].abs().sum() == 0


def test_the_contrast_asks_for_classes_that_a_label_shows_among_all_annotated_ones(make):
    given = batch()
    given["labeled"]["label"][:] = 1
    given["labeled"]["label"][0, :, :4] = 255
    method = make(temperature=1.0, unannotated=(2,))
    outputs = method.forward(given)
    prompts = torch.eye(CLASSES, 8)
    features = prompts[1].view(1, 8, 1, 1).expand(2, 8, 16, 16)
    losses = method.losses({**outputs, "text_features": features, "text_prompts": prompts}, given)
    expected = -torch.tensor([0.0, 1.0, 0.0]).log_softmax(0)[1]  # class 1 among 0, 1 and 3
    torch.testing.assert_close(losses["loss_text_contrast"], expected)


def test_a_decoder_that_is_trained_names_classes_better_than_the_attention_logits(vision):
    torch.manual_seed(0)
    decoder = TextGuidedDecoder(6, CLASSES, width=16)
    image = torch.rand(2, 1, 16, 16)
    label = torch.zeros(2, 1, 16, 16, dtype=torch.long)
    label[..., 5:9, :], label[..., 9:12, 4:] = 1, 2
    tokens = vision.project(image)
    said = Said(tokens, vision.logits(tokens), vision.embeddings)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        losses.append(segmentation_loss(decoder(said).logits, label))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    assert (decoder(said).logits.argmax(1, keepdim=True) == label).float().mean() > 0.9


def test_decoder_and_optimiser_are_saved_the_frozen_encoder_is_not(make, tmp_path):
    straight = make()
    step(straight, *[batch(seed) for seed in range(3)])
    first = make()
    step(first, batch(0))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    stored = torch.load(tmp_path / "state.pt", weights_only=True)
    assert stored["networks"].keys() == {"student", "teacher"}
    assert {name.split(".")[0] for name in stored["networks"]["student"]} == {"backbone", "text_decoder"}
    second = make()
    second.load_state_dict(stored)
    step(second, batch(1), batch(2))
    ours, theirs = (m.networks["student"].state_dict() for m in (straight, second))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_the_frozen_encoder_sees_weak_views_and_stays_as_it_is(make, vision):
    before = copy.deepcopy(vision.state_dict())
    method, given = make(), batch()
    plain = method.forward(given)
    step(method, given)
    assert all(torch.equal(value, before[name]) for name, value in vision.state_dict().items())
    assert all(parameter.grad is None for parameter in vision.parameters())
    fresh = make()
    given["unlabeled"]["image_strong"] = torch.rand(2, 1, 16, 16)
    assert torch.equal(fresh.forward(given)["text_unlabeled_logits"], plain["text_unlabeled_logits"])


def test_losses_on_unlabeled_slices_grow_over_their_share_of_the_run(make):
    given = batch()
    method = make(ramp_share=0.5, contrast_weight=0.0)
    method.total_updates = 8
    for updates, ramp in ((0, 0.006738), (2, 0.286505), (4, 1.0), (7, 1.0)):
        method.updates = updates
        parts = method.losses(method.forward(given), given)
        expected = parts["loss_supervised"] + parts["loss_text"]
        expected = expected + ramp * (parts["loss_pseudo"] + parts["loss_text_teacher"])
        torch.testing.assert_close(parts["loss"], expected / 2, rtol=1e-4, atol=1e-5)


def test_the_decoder_may_have_a_rate_of_its_own(make):
    network = make().networks["student"]
    rest, decoder = parameter_groups(network, 0.1, {"text_decoder": 3.0})
    assert decoder["lr"] == pytest.approx(0.3) and len(decoder["params"]) == len([*network.text_decoder.parameters()])
    assert len(rest["params"]) == len([*network.backbone.parameters()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_share": 1.5}, "text_share is 1.5; expected a share"),
        ({"ramp_share": -0.1}, "ramp_share is -0.1; expected a share"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"unlabeled_weight": -1.0}, "expected numbers of at least 0"),
        ({"text_weight": 0.0}, "nothing would train the decoder; set both to 0"),
        ({"text_weight": 0.0, "text_share": 0.0}, "neither where it is 0"),
        ({"dice_weight": 2.0}, "dice_weight is 2.0"),
    ],
)
def test_bad_settings_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_text_needs_its_parts(vision):
    student = plain_network()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"expected vision and a student in cps4_monai.networks.TextGuided"):
        DuSSS(student, optimizer, vision)
    with pytest.raises(ValueError, match="vision a NoneType"):
        DuSSS(TextGuided(student, vision, width=8), optimizer)
    with pytest.raises(ValueError, match="multiple of 8"):
        TextGuided(nn.Linear(1, 1), vision, width=12)
