"""The assistant by its card: templates in any order, prompts, memory, a level that stays empty, and what freezes."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from host_reads import HostReads
from monai.networks import eval_mode
from torch.nn import functional as F
from turned_products import TurnedProducts

from cps4_monai.losses.dice import soft_dice
from cps4_monai.losses.upsampled import UpsampledSegmentationLoss
from cps4_monai.methods import VessaPretraining
from cps4_monai.vessa import (
    Assistant,
    AssistantProvider,
    EncodedPrompts,
    LabelMap,
    SimulatedFeedback,
    SmallReference,
    SmallSam,
    TemplateBank,
)
from cps4_monai.vessa.attention import Attention
from cps4_monai.vessa.feedback import no_feedback
from cps4_monai.vessa.parts import Picture, Templates

CLASSES, SIZE, GRID, WIDTH = 4, (64, 32), (8, 4), 32


def ask(assistant: Assistant, image: torch.Tensor, templates: Templates) -> torch.Tensor:
    picture = Picture(image, assistant.image_encoder(image))
    seg, _ = assistant.reference(picture, templates, assistant.prompts())
    return assistant.mask_decoder(picture, templates, seg, no_feedback(len(image), CLASSES, SIZE, image.device))


@torch.no_grad()
def test_the_order_of_templates_changes_nothing_and_another_template_does(make, bands):
    assistant, (image, _) = make().eval(), bands(1, 2)
    templates = assistant.match(Picture(image, assistant.image_encoder(image)), None, 3)
    names = ("images", "labels", "tokens", "cells")
    mirrored = dataclasses.replace(templates, **{name: getattr(templates, name).flip(1) for name in names})
    other = dataclasses.replace(templates, tokens=templates.tokens.flip(2), cells=templates.cells.flip(2))
    first = ask(assistant, image, templates)
    assert first.shape == (2, CLASSES, 4 * GRID[0], 4 * GRID[1])
    torch.testing.assert_close(ask(assistant, image, mirrored), first, atol=1e-5, rtol=0)
    assert (ask(assistant, image, other) - first).abs().max() > 1e-3


@torch.no_grad()
def test_in_training_a_template_is_of_another_patient_where_the_bank_holds_every_other_slice(make, bands):
    """Positions in the data set are not positions in the bank: the patient of a slice is asked by the former."""
    images, labels = bands(0, 6)
    of_slice, kept = [0, 1, 1, 0, 2, 2], [0, 2, 4]  # whose each slice is; which slices are templates
    people = [of_slice[i] for i in kept]
    bank = TemplateBank(images[kept], labels[kept], people, CLASSES, GRID, kept, of_slice)
    assistant, mine = make(bank=bank, pool=3).train(), torch.tensor(of_slice)
    assistant.refresh()
    picture, seen = Picture(images, assistant.image_encoder(images)), [set() for _ in of_slice]
    for _ in range(20):
        shown = assistant.match(picture, torch.arange(6), 1).images[:, 0]
        chosen = (shown.unsqueeze(1) == bank.images.float()).flatten(2).all(2).int().argmax(1)
        assert not (bank.patients[chosen] == mine).any()
        for patients, code in zip(seen, bank.patients[chosen].tolist(), strict=True):
            patients.add(code)
    assert seen == [{0, 1, 2} - {person} for person in of_slice], "the other two, in turn"


@torch.no_grad()
def test_reference_encoder_and_memory_both_read_the_classes_of_a_template(make, bands):
    assistant, (image, _) = make().eval(), bands(1, 2)
    picture = Picture(image, assistant.image_encoder(image))
    templates = assistant.match(picture, None, 1)
    other = dataclasses.replace(templates, cells=templates.cells[:, :, [0, 2, 1, 3]])
    seg, of_other = (assistant.reference(picture, given, assistant.prompts())[0] for given in (templates, other))
    assert (seg - of_other).abs().max() > 1e-4
    nobody = no_feedback(2, CLASSES, SIZE, image.device)
    masks = [assistant.mask_decoder(picture, given, seg, nobody) for given in (templates, other)]
    assert (masks[0] - masks[1]).abs().max() > 1e-4


@torch.no_grad()
def test_a_template_that_is_not_there_is_not_read(make, bands):
    assistant, (image, _) = make().eval(), bands(1, 2)
    templates = assistant.match(Picture(image, assistant.image_encoder(image)), None, 2)
    nobody = dataclasses.replace(templates, there=torch.tensor([False, True]))
    noise = dataclasses.replace(nobody, tokens=torch.randn_like(nobody.tokens), cells=torch.rand_like(nobody.cells))
    first, second = ask(assistant, image, nobody), ask(assistant, image, noise)
    torch.testing.assert_close(first[0], second[0])
    assert (first[1] - second[1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mask", "box", "point"])
def test_feedback_of_another_class_order_is_another_answer_and_none_that_of_nothing_seen(make, kind, bands):
    assistant, (image, label) = make(feedback=(kind,)).eval(), bands(1, 2)
    said = (label == torch.arange(CLASSES).view(1, -1, 1, 1)).float()
    silent = assistant(image)
    assert torch.equal(assistant(image, torch.full_like(said, 0.4)), silent)
    assert torch.equal(assistant(image, torch.zeros_like(said)), silent)
    told = assistant(image, said)
    assert (told - silent).abs().max() > 1e-4
    assert (assistant(image, said[:, [0, 2, 1, 3]]) - told).abs().max() > 1e-4


def test_templates_of_training_are_of_other_patients_and_drawn_among_the_best(make):
    assistant = make(pool=4).train()
    assistant.refresh()
    picture = Picture(assistant.bank.images.float(), assistant.image_encoder(assistant.bank.images.float()))
    own = assistant.bank.patients
    for _ in range(5):
        chosen = assistant.match(picture, torch.arange(4), 2)
        theirs = (chosen.images[:, :, None] == assistant.bank.images.float()).flatten(3).all(3).int().argmax(2)
        assert (own[theirs] != own[:, None]).all()


def test_in_evaluation_the_best_match_is_the_picture_itself_and_the_bank_is_read_once(make):
    assistant = make(templates=1).eval()
    images = assistant.bank.images.float()
    with torch.no_grad():
        assistant(images)
        kept = assistant.known()
        templates = assistant.match(Picture(images, assistant.image_encoder(images)), None, 1)
    assert torch.equal(templates.images[:, 0], images) and assistant.known() is kept


def test_moving_the_assistant_moves_its_bank_and_lets_go_what_was_kept_of_it(make):
    """As when stage 1 is set aside: a plain attribute would stay on the device."""
    assistant = make().eval()
    assistant.known()
    moved = []
    assistant.bank.to = moved.append
    assert assistant.to("cpu") is assistant and assistant._kept is None
    assert [torch.device(device) for device in moved] == [assistant.features.device]


def test_between_the_volumes_of_a_validation_the_bank_is_not_read_again(make):
    """MONAI's evaluator puts the network into evaluation mode for each volume, and back."""
    assistant = make().train()
    images = assistant.bank.images.float()
    answers = []
    for _ in range(2):
        with eval_mode(assistant):
            assistant(images)
            answers.append(assistant.known())
    assert assistant.training and answers[0] is answers[1]
    assistant(images, slice_id=torch.arange(4))
    with eval_mode(assistant):
        assert assistant.known() is not answers[0], "a step of training may have changed the encoder"


def test_slices_are_learned_with_themselves_as_templates_and_need_the_memory(make):
    """The overfit test of the card, made small: two slices that look alike, whose classes the template alone tells."""
    image, label = torch.zeros(2, 1, *SIZE), torch.zeros(2, 1, *SIZE, dtype=torch.uint8)
    image[..., 8:24, 8:24], image[..., 40:56, 8:24] = 0.5, 0.5
    for index, (upper, lower) in enumerate(((1, 2), (2, 1))):
        label[index, :, 8:24, 8:24], label[index, :, 40:56, 8:24] = upper, lower
    assistant = make(bank=TemplateBank(image, label, [0, 1], CLASSES, GRID))
    optimizer = torch.optim.AdamW(assistant.parameters(), lr=3e-3)
    loss = UpsampledSegmentationLoss()

    def with_itself(there: bool) -> torch.Tensor:
        tokens = assistant.image_encoder(image).unsqueeze(1)
        bank = assistant.bank
        shown = (image.unsqueeze(1), label.unsqueeze(1), tokens, bank.cells.unsqueeze(1), torch.tensor([there, there]))
        return ask(assistant, image, Templates(*shown))

    def dice(there: bool) -> float:
        with torch.no_grad():
            codes = LabelMap()(with_itself(there), SIZE)
        return float(1 - soft_dice(100 * F.one_hot(codes[:, 0], CLASSES).movedim(-1, 1).float(), label))

    for _ in range(110):
        optimizer.zero_grad()
        loss(with_itself(True), label).backward()
        optimizer.step()
    assistant.eval()
    assert dice(True) > 0.95
    assert dice(False) < 0.8


def test_the_loss_upsamples_and_adds_cross_entropy_and_dice_by_hand():
    logits = torch.zeros(1, 2, 1, 1)
    label = torch.tensor([[[[0, 1], [255, 255]]]], dtype=torch.uint8)
    torch.testing.assert_close(UpsampledSegmentationLoss()(logits, label), torch.tensor(2.0).log() + 0.5)
    torch.testing.assert_close(UpsampledSegmentationLoss(dice_weight=0.0)(logits, label), torch.tensor(2.0).log())
    with pytest.raises(ValueError, match="dice_weight is -1"):
        UpsampledSegmentationLoss(dice_weight=-1)


def test_a_frozen_copy_answers_alike_without_text_encoder_and_cannot_be_trained(make, bands):
    class Words(torch.nn.Module):
        embed_dim, pretrained = 12, False

        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(9, 12)

        def tokenize(self, prompts):
            return {"input_ids": torch.arange(len(prompts))[:, None], "attention_mask": torch.ones(len(prompts), 1)}

        def forward(self, input_ids, attention_mask):
            return self.table(input_ids[:, 0]) + 5 * torch.arange(12)  # most of it is common

    assistant = make(prompts=EncodedPrompts(Words(), ["a", "b", "c", "d"]))
    apart = EncodedPrompts(Words(), ["a", "b", "c", "d"]), EncodedPrompts(Words(), ["a", "b", "c", "d"], centred=False)
    likeness = [F.cosine_similarity(made()[:1], made()[1:]).abs().mean() for made in apart]
    torch.testing.assert_close(apart[0]().var(dim=1, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)
    assert likeness[0] < 0.6 and likeness[1] > 0.9 and assistant.prompts.centred
    frozen, (image, _) = assistant.freeze(), bands(1, 2)
    assert not any(p.requires_grad for p in frozen.parameters()) and not frozen.train().training
    assert not any("text_encoder" in name for name in frozen.state_dict())
    sizes = {tensor.numel() for tensor in (*assistant.state_dict().values(), *assistant.buffers())}
    assert assistant.bank.images.numel() not in sizes  # no pixel in a checkpoint, none sent from process to process
    with torch.no_grad():
        torch.testing.assert_close(frozen(image), assistant.eval()(image))
        frozen.mask_decoder.classes.add_(1.0)
        assert not torch.equal(frozen.mask_decoder.classes, assistant.mask_decoder.classes)


def test_the_provider_answers_in_probabilities_over_the_annotated_classes(make, bands):
    provider, (image, label) = AssistantProvider(make(unannotated=(2,)).freeze()), bands(1, 2)
    answer = provider(image)
    q = answer["pseudo_probabilities"]
    assert q.shape == (2, CLASSES, *SIZE) and answer["prompt_map"].shape == (2, 1, *SIZE)
    torch.testing.assert_close(q.sum(1), torch.ones(2, *SIZE))
    assert q[:, 2].abs().max() == 0 and not (answer["prompt_map"] == 2).any() and not q.requires_grad
    up = F.interpolate(answer["attention_logits"], SIZE, mode="bilinear")[:, [0, 1, 3]].softmax(1)
    torch.testing.assert_close(q[:, [0, 1, 3]], up)
    heard = provider(image, student_probabilities=(label == torch.arange(CLASSES).view(1, -1, 1, 1)).float())
    assert not torch.equal(heard["pseudo_probabilities"], q)


def test_parameters_are_grouped_and_wrong_settings_named(make):
    assistant = make()
    (group,) = assistant.parameter_groups()
    assert group["name"] == "new" and len(group["params"]) == len(list(assistant.parameters()))
    assistant.image_encoder.pretrained = True
    pretrained, new = assistant.parameter_groups(1e-5, 1e-3)
    assert (pretrained["lr"], new["lr"]) == (1e-5, 1e-3)
    assert len(pretrained["params"]) + len(new["params"]) == len(list(assistant.parameters()))
    *pretrained, new = assistant.parameter_groups(1e-4, 1e-3, layer_decay=0.5)
    model, rates = assistant.image_encoder.model, {id(p): g["lr"] for g in pretrained for p in g["params"]}
    assert (rates[id(model.norm.weight)], rates[id(model.pos_embed)]) == (1e-4, 0.5e-4), "of one block"
    for wrong in ({"templates": 0}, {"pool": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} 0|{next(iter(wrong))} is 0"):
            make(**wrong)


def test_neither_a_step_of_stage_1_nor_the_provider_waits_for_the_device(make, bands):
    assistant, (image, label) = make().train(), bands(0)
    method = VessaPretraining(
        assistant,
        torch.optim.SGD(assistant.parameters(), lr=0.1),
        UpsampledSegmentationLoss(),
        simulated=SimulatedFeedback(CLASSES, [[1, 2, 3]]),
    )
    method.total_updates = 2
    batch = {"labeled": {"image": image, "label": label, "slice_id": torch.arange(4)}}
    with HostReads() as host:
        method.train()
        losses = method.losses(method.forward(batch), batch)
        losses["loss"].backward()
    without = [name for name, p in assistant.named_parameters() if p.grad is None]
    assert host.reads == [] and not method.waits_for_device and without == []
    provider, said = AssistantProvider(method.freeze()), (label == torch.arange(CLASSES).view(1, -1, 1, 1)).float()
    with HostReads() as host:
        provider(image, student_probabilities=said)
    assert host.reads == []


@pytest.mark.parametrize(
    "changed",
    [{"simulated": None}, {"max_templates": 3}, {"without_template": 1.0}, {"refresh_share": 1.0}],
    ids=lambda changed: next(iter(changed)),
)
def test_each_option_of_its_training_varied_alone_changes_the_loss(changed, make, bands):
    """Against feedback, one template of another patient for every slice, and features that are new in every step."""
    image, label = bands(0)
    batch = {"labeled": {"image": image, "label": label, "slice_id": torch.arange(4)}}

    def losses(**settings):
        given = {"simulated": SimulatedFeedback(CLASSES, [[1, 2, 3]]), "max_templates": 1, "without_template": 0.0}
        assistant = make().train()
        method = VessaPretraining(
            assistant,
            torch.optim.SGD(assistant.parameters(), lr=0.5),
            UpsampledSegmentationLoss(),
            **{**given, "refresh_share": 0.25, **settings},
        )
        method.total_updates = 4
        random.seed(3)
        torch.manual_seed(3)
        seen = []
        for _ in range(4):
            method.train()
            loss = method.losses(method.forward(batch), batch)["loss"]
            seen.append(loss.item())
            loss.backward()
            method.optimizers["model"].step()
            method.optimizers["model"].zero_grad()
            method.after_step()
        return seen

    assert losses() == losses() != losses(**changed)


def test_mixed_precision_gives_nearly_the_same_answer_and_float32_weights_their_gradients(make, bands):
    assistant, (image, label) = make().eval(), bands(1, 2)
    said = (label == torch.arange(CLASSES).view(1, -1, 1, 1)).float()
    provider = AssistantProvider(assistant.freeze())
    exact = provider(image, student_probabilities=said)["pseudo_probabilities"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = AssistantProvider(assistant.freeze())(image, student_probabilities=said)["pseudo_probabilities"]
        UpsampledSegmentationLoss()(assistant.train()(image, said, slice_id=torch.arange(2)), label).backward()
    assert mixed.dtype == torch.float32 and (mixed - exact).abs().max() < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in assistant.parameters())


@torch.no_grad()
def test_dropout_acts_in_training_and_spares_the_weights_of_attention_for_fused_kernels(
    make, bands, monkeypatch
) -> None:
    parts = {
        "reference": SmallReference(WIDTH, 12, CLASSES, WIDTH, 1, 2, dropout=0.5),
        "mask_decoder": SmallSam(WIDTH, CLASSES, WIDTH, 2, 1, 1, dropout=0.5),
    }
    assistant, image = make(**parts), bands(1)[0]
    templates = assistant.eval().match(Picture(image, assistant.image_encoder(image)), None, 2)
    attend, dropped = F.scaled_dot_product_attention, []

    def noted(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False) -> torch.Tensor:
        dropped.append(dropout_p)
        return attend(query, key, value, attn_mask, dropout_p, is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    for name, part in parts.items():
        assistant.eval()
        part.train()
        assert not torch.equal(ask(assistant, image, templates), ask(assistant, image, templates)), name
    assert len(dropped) >= 4 and not any(dropped)


def test_attention_is_torchs_over_slices_first() -> None:
    """Of itself, with tokens that are not there, and with keys that are the values."""
    torch.manual_seed(0)
    own, torchs = Attention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    torchs.load_state_dict(own.state_dict())
    query, key, value = torch.randn(3, 5, 8), torch.randn(3, 7, 8), torch.randn(3, 7, 8)
    absent = torch.arange(7) >= torch.tensor([[7], [4], [1]])
    for keys, values, mask in ((key, value, absent), (key, key, None), (query, query, None), (query, query + 1, None)):
        expected, _ = torchs(query, keys, values, key_padding_mask=mask, need_weights=False)
        torch.testing.assert_close(own(query, keys, values, mask), expected)


def test_no_product_is_made_of_turned_tokens(make, bands) -> None:
    provider, (image, label) = AssistantProvider(make().freeze()), bands(1, 2)
    said = (label == torch.arange(CLASSES).view(1, -1, 1, 1)).float()
    provider(image, said)
    with TurnedProducts() as products, torch.autocast("cpu", torch.bfloat16):
        provider(image, said)
    assert products.count > 10 and products.turned == []
