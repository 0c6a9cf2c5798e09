"""MGCA on class prompts: prototypes that rest, the queue, w and b of the maps, validation (card 8)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cps4_monai.losses.captions import caption_contrast
from cps4_monai.losses.cross_attention import cross_attention_alignment
from cps4_monai.losses.prototypes import sinkhorn, swapped_prediction
from cps4_monai.methods import MGCA
from cps4_monai.methods.mgca import PrototypeHeads


def make(stage1, prototypes=7, **settings):
    torch.manual_seed(0)
    model = PrototypeHeads(stage1.LocalModel(), prototypes)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    method = MGCA(model, optimizer, **settings)
    method.total_updates = 4
    return method


def test_prototypes_rest_in_the_first_part_of_the_run_and_the_heads_do_not(stage1):
    method = make(stage1, frozen_share=0.5)
    model, places = method.networks["model"], []
    start, head = model.prototypes.detach().clone(), model.image_head.weight.detach().clone()
    for batch in stage1.batches(4):
        stage1.train(method, stage1.Loader([batch]))
        places.append(model.prototypes.detach().clone())
    assert torch.equal(places[0], start) and torch.equal(places[1], start)
    assert not torch.equal(places[2], start) and not torch.equal(model.image_head.weight, head)


def test_w_is_the_inverse_of_the_temperature_and_b_makes_the_mean_attention_logit_0(stage1):
    method, (batch,) = make(stage1), stage1.batches(1)
    model = method.deployed
    with torch.no_grad():
        cosines = (model(batch["labeled"]["image"]) - model.logit_bias) / model.log_scale.exp()
    stage1.train(method, [batch])
    assert model.log_scale.exp().item() == pytest.approx(10.0)
    assert model.logit_bias.item() == pytest.approx(-10 * cosines.mean().item(), abs=1e-5)
    assert not model.log_scale.requires_grad and not model.logit_bias.requires_grad
    before = model.logit_bias.item()
    with torch.no_grad():
        mean = -(model(batch["labeled"]["image"]) - model.logit_bias).mean().item()
    stage1.train(method, [batch])
    assert model.logit_bias.item() == pytest.approx((before + mean) / 2, abs=1e-5), (
        "the second of two steps counts half"
    )


def test_slices_that_nobody_annotated_leave_b_where_it_is(stage1):
    method, (batch,) = make(stage1), stage1.batches(1)
    method.deployed.logit_bias.data.fill_(-1.5)
    unannotated = {**batch["labeled"], "label": torch.full_like(batch["labeled"]["label"], 255)}
    stage1.train(method, [{"labeled": unannotated}])
    assert method.deployed.logit_bias.item() == -1.5


def test_the_mean_of_accumulated_batches_is_over_their_annotated_cells(stage1):
    """A batch of two annotated slices counts twice as much as one of which half is 255."""
    method, (batch,) = make(stage1), stage1.batches(1)
    image, label = batch["labeled"]["image"], batch["labeled"]["label"].clone()
    label[len(label) // 2 :] = 255
    parts = [method._cosines_of(method.forward({"labeled": {"image": image, "label": one}})) for one in (label, label)]
    whole = method._cosines_of(method.forward(batch))
    assert parts[0][1] == parts[1][1] and 2 * parts[0][1] == whole[1]


def test_heads_with_batch_norm_refuse_a_single_slice_by_the_setting_that_says_so(stage1):
    method, (batch,) = make(stage1), stage1.batches(1)
    method.networks["model"].image_head = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    one = {key: value[:1] for key, value in batch["labeled"].items()}
    with pytest.raises(ValueError, match=r"one labeled slice.*Fix: raise stage1#batch_size"):
        method.forward({"labeled": one})


def test_the_queue_holds_the_last_pairs_the_newest_first(stage1):
    method, loader = make(stage1, queue_length=6), stage1.batches(2)
    loader[1]["labeled"]["label"][2] = 255
    scores = []
    for batch in loader:
        outputs = method.forward(batch)
        scores.append(torch.cat([outputs["image_scores"], outputs["caption_scores"]], dim=1).detach())
        method.after_step()
    queue = method.extra_state()["queue"]
    torch.testing.assert_close(queue[:, :-1], torch.cat([scores[1], scores[0][:2]]))
    assert queue[:, -1].tolist() == [1, 1, 0, 1, 1, 1], "a slice that nobody annotated is no pair"


def test_each_part_has_its_published_temperature(stage1):
    """ITA 0.07, CTA 0.1, CPA 0.2, of what the network gives."""
    method, (batch,) = make(stage1, queue_length=0), stage1.batches(1)
    outputs = method.forward(batch)
    losses, captions = method.losses(outputs, batch), outputs["occurs"].flatten(2).any(2)
    cells = outputs["occurs"].any(1).flatten(1)
    similarity = outputs["image"] @ outputs["caption"].T / 0.07
    torch.testing.assert_close(losses["loss_instance"], caption_contrast(similarity, similarity, captions))
    token = cross_attention_alignment(outputs["words"], outputs["patches"], captions, cells, 0.1)
    torch.testing.assert_close(losses["loss_token"], token)
    scores = [outputs[f"{side}_scores"] for side in ("image", "caption")]
    pairs = torch.ones(4, dtype=torch.bool)
    expected = swapped_prediction(*scores, tuple(sinkhorn(s, pairs, 0.05, 3) for s in scores), pairs, 0.2)
    torch.testing.assert_close(losses["loss_prototype"], expected)


def test_pairs_in_the_queue_balance_the_assignment(stage1):
    method, (batch,) = make(stage1), stage1.batches(1)
    before = stage1.step(method, batch)["loss_prototype"].item()
    crowded = torch.zeros_like(method.queue)
    crowded[:, 0], crowded[:, 7], crowded[:, -1] = 1.0, 1.0, 1.0  # all earlier pairs took the first prototype
    method.queue.copy_(crowded)
    assert stage1.step(method, batch)["loss_prototype"].item() != pytest.approx(before, abs=1e-3)


def test_the_validation_loss_has_no_dropout_and_changes_nothing_while_the_model_trains(stage1):
    method, (batch,) = make(stage1), stage1.batches(1)
    model, labeled = method.networks["model"], batch["labeled"]
    model.image_head = torch.nn.Sequential(model.image_head, torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    values = [method.validation_loss(labeled["image"], labeled["label"]).item() for _ in range(2)]
    assert values[0] == values[1] and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_equal_slices_with_equal_captions_have_an_instance_loss_of_ln_2_without_gradient(stage1):
    method, (batch,) = make(stage1, token_weight=0.0, prototype_weight=0.0), stage1.batches(1)
    twins = {key: value[:1].repeat(2, 1, 1, 1) for key, value in batch["labeled"].items()}
    losses = stage1.step(method, {"labeled": twins})
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(0.6931, abs=1e-4)
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in method.parameters())


def test_validation_reads_the_queue_and_leaves_everything_as_it_was(stage1):
    method, loader = make(stage1), stage1.batches(3)
    stage1.train(method, loader[:2])
    state = {key: value.clone() for key, value in method.networks["model"].state_dict().items()}
    queue, labeled = method.queue.clone(), loader[2]["labeled"]
    value = method.validation_loss(labeled["image"], labeled["label"])
    assert torch.equal(method.queue, queue)
    assert all(torch.equal(value, state[key]) for key, value in method.networks["model"].state_dict().items())
    torch.testing.assert_close(value, stage1.step(method, loader[2])["loss"].detach())
    assert not value.requires_grad


def test_global_embeddings_are_means_of_annotated_patches_and_of_present_words_through_their_heads(stage1):
    method, (batch,) = make(stage1), stage1.batches(1)
    batch["labeled"]["label"][1, :, 8:] = 255
    outputs = method.forward(batch)
    model = method.networks["model"]
    patches, words = model.backbone(batch["labeled"]["image"], embeddings=True)
    image = F.normalize(model.image_head(patches[1, :, :2].flatten(1).mean(1)), dim=0)
    present = [c for c in range(5) if (batch["labeled"]["label"][1] == c).any()]
    torch.testing.assert_close(outputs["image"][1], image)
    torch.testing.assert_close(outputs["caption"][1], F.normalize(model.caption_head(words[present].mean(0)), dim=0))


def test_all_but_w_and_b_learn_and_heads_are_new(tmp_path, stage1):
    from cps4_monai.anatomy import MRSPINESEG
    from cps4_monai.text import TextEncoder, write_tiny_text_encoder
    from cps4_monai.vision import VisionEncoder, load_prompted_vision, save_prompted_vision
    from cps4_monai.vlm import VisionLanguageModel

    text = TextEncoder(write_tiny_text_encoder(tmp_path / "text", MRSPINESEG.prompts, 16, 1, 2))
    vision = VisionEncoder("vit_tiny_patch16_224", (32, 16), False, patch_size=8, embed_dim=12, depth=1, num_heads=2)
    model = PrototypeHeads(VisionLanguageModel(vision, text, MRSPINESEG.prompts, embedding_dim=8, projection="mlp"))
    groups = model.parameter_groups(1e-5, 5e-4)
    grouped = {id(p) for group in groups for p in group["params"]}
    left = {name for name, p in model.named_parameters() if id(p) not in grouped}
    assert left == {"backbone.log_scale", "backbone.logit_bias"} and groups[-1]["lr"] == 5e-4
    method = MGCA(model, torch.optim.Adam(groups))
    method.total_updates = 2
    labeled = {"image": torch.rand(3, 1, 32, 16), "label": torch.randint(0, 20, (3, 1, 32, 16), dtype=torch.uint8)}
    method.train()
    losses = stage1.step(method, {"labeled": labeled})
    losses["loss"].backward()
    unused = {name for name, p in model.named_parameters() if id(p) in grouped and p.grad is None}
    assert unused == set(), "a parameter without gradient stops training on several devices"
    save_prompted_vision(tmp_path / "p.pt", method.freeze(), MRSPINESEG)
    loaded = load_prompted_vision(tmp_path / "p.pt", objective="MGCA objective on class prompts")
    assert loaded.substitution == "reports: the prompts of the classes that a labeled slice shows"
    image = labeled["image"]
    torch.testing.assert_close(loaded(image), model.eval()(image))


def test_bad_settings_are_refused(stage1):
    with pytest.raises(ValueError, match="token_weight is -1; expected weights, lengths, shares of 0 or more"):
        make(stage1, token_weight=-1)
    with pytest.raises(ValueError, match="prototype_temperature is 0"):
        make(stage1, prototype_temperature=0)
    with pytest.raises(ValueError, match="prototypes is 0"):
        make(stage1, prototypes=0)
