"""Vision-language model: logits by hand, learning rates, gradients, and the file between the stages."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from turned_products import TurnedProducts

from cps4_monai.anatomy import Anatomy, Structure, load_anatomy
from cps4_monai.plan import Plan
from cps4_monai.text import TextEncoder, write_tiny_text_encoder
from cps4_monai.vision import VisionEncoder
from cps4_monai.vision.stage1_file import objective_of
from cps4_monai.vlm import (
    PromptedVision,
    VisionLanguageModel,
    attention_logits,
    load_prompted_vision,
    save_prompted_vision,
)

STRUCTURES = [
    Structure(0, "background", "background", "background"),
    Structure(1, "S", "sacrum", "sacrum", 0),
    Structure(2, "L5", "lumbar vertebra 5", "vertebra", 1),
]
ANATOMY = Anatomy(STRUCTURES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_text_encoder(tmp_path_factory.mktemp("tiny"), ANATOMY.prompts, hidden_size=16, num_layers=1)


def vision() -> VisionEncoder:
    return VisionEncoder("vit_tiny_patch16_224", (32, 16), False, patch_size=8, embed_dim=24, depth=1, num_heads=2)


@pytest.fixture
def vlm(tiny):
    return VisionLanguageModel(vision(), TextEncoder(tiny), ANATOMY.prompts, embedding_dim=12)


def test_attention_logits_by_hand():
    tokens = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)  # along x, along y
    prompts = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    logits = attention_logits(tokens, prompts, torch.tensor(10.0), torch.tensor(-2.5))
    half = 10 * 0.5**0.5 - 2.5
    torch.testing.assert_close(logits, torch.tensor([[7.5, -2.5], [half, half], [-2.5, -12.5]]).view(1, 3, 1, 2))


def test_complement_background_is_one_minus_the_strongest_annotated_structure():
    tokens, prompts = torch.randn(2, 6, 3, 2), torch.randn(4, 6)
    w, b = torch.tensor(10.0), torch.tensor(-2.5)
    plain = attention_logits(tokens, prompts, w, b)
    complement = attention_logits(tokens, prompts, w, b, "complement", unannotated=(2,))
    assert torch.equal(complement[:, 1:], plain[:, 1:])
    torch.testing.assert_close(torch.sigmoid(complement[:, 0]), 1 - torch.sigmoid(plain[:, [1, 3]]).amax(1))


def test_forward_gives_one_map_per_class_that_starts_at_w_10_b_minus_2_5(vlm):
    logits = vlm(torch.rand(2, 1, 32, 16))
    assert logits.shape == (2, 3, 4, 2)
    assert (vlm.logit_scale.item(), vlm.logit_bias.item()) == (pytest.approx(10), -2.5)
    assert ((logits + 2.5).abs() <= 10.001).all()


def test_prompt_embeddings_have_length_one(vlm):
    embeddings = vlm.prompt_embeddings()
    assert embeddings.shape == (3, 12)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_centred_prompts_point_apart_from_the_start_and_stay_so_in_the_frozen_copy(tiny):
    torch.manual_seed(0)
    plain = VisionLanguageModel(vision(), TextEncoder(tiny), ANATOMY.prompts, embedding_dim=12)
    centred = VisionLanguageModel(vision(), TextEncoder(tiny), ANATOMY.prompts, embedding_dim=12, centre_prompts=True)
    centred.load_state_dict(plain.state_dict(), strict=False)  # without the bias
    projected = plain.text_projection(plain.text_encoder(plain.input_ids, plain.attention_mask))
    expected = F.normalize(projected - projected.mean(dim=0), dim=1)
    torch.testing.assert_close(centred.eval().prompt_embeddings(), expected)

    def largest_cosine(model):
        embeddings = model.prompt_embeddings()
        return (embeddings @ embeddings.T).fill_diagonal_(-1).max()

    assert largest_cosine(centred) < 0.5 < 0.9 < largest_cosine(plain.eval())
    torch.testing.assert_close(centred.freeze().prompt_embeddings(), expected)


def test_every_parameter_is_trained(vlm):
    vlm(torch.rand(2, 1, 32, 16)).square().sum().backward()
    assert not [name for name, p in vlm.named_parameters() if p.grad is None]


def test_autocast_keeps_float32_logits_and_gradients_finite(vlm):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = vlm(torch.rand(2, 1, 32, 16))
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in vlm.parameters())


def test_parameter_groups_split_pretrained_from_new(vlm):
    groups = vlm.parameter_groups(1e-5, 5e-4)
    assert [(g["name"], g["lr"]) for g in groups] == [("new", 5e-4)]  # both encoders start from scratch
    vlm.image_encoder.pretrained = True
    groups = {g["name"]: g for g in vlm.parameter_groups(1e-5, 5e-4)}
    assert (groups["pretrained"]["lr"], groups["new"]["lr"]) == (1e-5, 5e-4)
    assert {id(p) for p in groups["pretrained"]["params"]} == {id(p) for p in vlm.image_encoder.parameters()}
    every = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(every) == sorted(id(p) for p in vlm.parameters())
    torch.optim.Adam(list(groups.values()))


def test_with_a_layer_decay_each_block_learns_slower_than_the_next(tiny):
    image_side = VisionEncoder(
        "vit_small_patch14_dinov2", (28, 14), False, patch_size=7, embed_dim=12, depth=3, num_heads=2
    )
    vlm = VisionLanguageModel(image_side, TextEncoder(tiny), ANATOMY.prompts, embedding_dim=12)
    image_side.pretrained = True
    groups = {g["name"]: g for g in vlm.parameter_groups(1e-4, 5e-4, layer_decay=0.5)}
    rates = {id(p): g["lr"] for g in groups.values() for p in g["params"]}
    assert sorted(rates) == sorted(id(p) for p in vlm.parameters()), "each parameter once"
    model = image_side.model
    expected = {
        0.125e-4: [model.cls_token, model.pos_embed, model.patch_embed.proj.weight],
        0.25e-4: [model.blocks[0].attn.qkv.weight, model.blocks[0].ls1.gamma],
        0.5e-4: [model.blocks[1].mlp.fc2.bias],
        1e-4: [model.blocks[2].norm1.weight, model.norm.weight],
        5e-4: [vlm.image_projection.weight, *vlm.text_encoder.parameters()],
    }
    for rate, parameters in expected.items():
        assert [rates[id(p)] for p in parameters] == pytest.approx([rate] * len(parameters))
    assert [g["name"] for g in vlm.parameter_groups(1e-4, 5e-4, 0.5)] == [
        "pretrained 0",
        "pretrained 1",
        "pretrained 2",
        "pretrained 3",
        "new",
    ]


def test_text_encoders_have_their_own_depth(tiny):
    text = TextEncoder(tiny)
    vlm = VisionLanguageModel(vision(), text, ANATOMY.prompts, embedding_dim=12)
    text.pretrained = True
    rates = {id(p): g["lr"] for g in vlm.parameter_groups(1e-4, 5e-4, layer_decay=0.1) for p in g["params"]}
    assert rates[id(text.model.embeddings.word_embeddings.weight)] == pytest.approx(1e-5)
    assert rates[id(text.blocks[0].attention.self.query.weight)] == pytest.approx(1e-4)
    assert rates[id(vlm.image_encoder.model.cls_token)] == pytest.approx(5e-4)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_layer_decay_that_is_none_is_refused(vlm, decay):
    with pytest.raises(ValueError, match=f"layer_decay is {decay}; expected a number above 0"):
        vlm.parameter_groups(layer_decay=decay)


def test_a_few_steps_learn_where_a_structure_is(vlm):
    from cps4_monai.losses.attention import AttentionLoss

    label = torch.zeros(2, 1, 32, 16, dtype=torch.long)
    label[:, :, :8, :8], label[:, :, 24:, 8:] = 1, 2
    image = 0.1 + 0.4 * label.float()
    optimiser = torch.optim.Adam(vlm.parameter_groups(lr_new=5e-3))
    loss_fn, losses = AttentionLoss(), []
    for _ in range(60):
        loss = loss_fn(vlm(image), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    coarse = F.max_pool2d(label.float(), 8).long()[:, 0]
    assert torch.equal(vlm(image).argmax(1), coarse)


@pytest.mark.parametrize("background", ["prompt", "complement"])
def test_frozen_image_side_gives_the_same_logits_without_text_encoder(tiny, background):
    vlm = VisionLanguageModel(vision(), TextEncoder(tiny), ANATOMY.prompts, 12, background=background).eval()
    frozen = vlm.freeze()
    image = torch.rand(2, 1, 32, 16)
    torch.testing.assert_close(frozen(image), vlm(image))
    torch.testing.assert_close(frozen.prompt_embeddings(), vlm.prompt_embeddings())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any("text" in key for key in frozen.state_dict())
    with torch.no_grad():
        vlm.image_projection.weight.zero_()
    assert frozen.projection.weight.any()  # a copy: later training leaves it alone


def test_frozen_image_side_stays_in_eval_mode(vlm):
    frozen = vlm.freeze().train()
    assert not any(module.training for module in frozen.modules())
    assert vlm.training


def test_the_frozen_image_side_makes_no_product_of_turned_tokens(vlm):
    frozen = vlm.freeze()
    with TurnedProducts() as products, torch.no_grad():
        frozen(torch.rand(2, 1, 32, 16))
    assert products.count > 1 and products.turned == []


def test_file_between_the_stages_gives_the_same_logits(vlm, tmp_path):
    frozen = vlm.freeze()
    save_prompted_vision(tmp_path / "deep" / "vlm.pt", frozen, ANATOMY)
    loaded = load_prompted_vision(tmp_path / "deep" / "vlm.pt", ANATOMY, unannotated=(), image_size=(32, 16))
    image = torch.rand(1, 1, 32, 16)
    assert isinstance(loaded, PromptedVision)
    assert torch.equal(loaded(image), frozen(image))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["vlm.pt"]


def test_an_encoder_goes_on_from_a_file_between_the_stages_and_from_none_of_another(vlm, tmp_path):
    save_prompted_vision(tmp_path / "vlm.pt", vlm.freeze(), ANATOMY)
    torch.save({"weights": {}}, tmp_path / "other.pt")
    arguments = vlm.image_encoder.arguments
    again = VisionEncoder(**arguments, start_from=tmp_path / "vlm.pt")
    own = vlm.image_encoder.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in again.state_dict().items())
    assert again.pretrained is False, "its rate is that of what it was before"
    with pytest.raises(ValueError, match=r"vlm\.pt: its image encoder is another than this run's"):
        VisionEncoder(**{**arguments, "depth": arguments["depth"] + 1}, start_from=tmp_path / "vlm.pt")
    turned = {**arguments, "image_size": arguments["image_size"][::-1]}  # as many patches, in other places
    with pytest.raises(ValueError, match=r"vlm\.pt: .*image_size was \[32, 16\], is \[16, 32\]"):
        VisionEncoder(**turned, start_from=tmp_path / "vlm.pt")
    with pytest.raises(ValueError, match=r"vlm\.pt: .*num_heads was \d+, is 1"):
        VisionEncoder(**{**arguments, "num_heads": 1}, start_from=tmp_path / "vlm.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no stage-1 checkpoint"):
        VisionEncoder(**arguments, start_from=tmp_path / "other.pt")


def test_file_holds_tensors_and_plain_types_only(vlm, tmp_path):
    save_prompted_vision(tmp_path / "vlm.pt", vlm.freeze(), ANATOMY)
    content = torch.load(tmp_path / "vlm.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in content.pop("weights").values())
    assert json.loads(json.dumps(content)) == content
    assert load_anatomy(content["anatomy"]).prompts == ANATOMY.prompts


def test_a_write_that_fails_leaves_the_earlier_file_whole(vlm, tmp_path, monkeypatch):
    path = tmp_path / "vlm.pt"
    save_prompted_vision(path, vlm.freeze(), ANATOMY)
    before = path.read_bytes()

    def full_disk(content, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_prompted_vision(path, vlm.freeze(), ANATOMY)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["vlm.pt"]


def checkpoint(vlm, tmp_path, unannotated=()):
    vlm.unannotated = unannotated
    save_prompted_vision(tmp_path / "vlm.pt", vlm.freeze(), ANATOMY)
    return tmp_path / "vlm.pt"


def test_other_classes_are_refused(vlm, tmp_path):
    two = Anatomy(STRUCTURES[:2])
    with pytest.raises(
        ValueError, match="set `anatomy_source` to the one that stage 1 used, or run training_stage1 again"
    ):
        load_prompted_vision(checkpoint(vlm, tmp_path), two)


def test_other_prompts_are_refused(vlm, tmp_path):
    other = Anatomy(STRUCTURES, "An X-ray of a {name}")
    with pytest.raises(ValueError, match=r"'An X-ray of a background': set `prompt_template`"):
        load_prompted_vision(checkpoint(vlm, tmp_path), other)


def test_classes_that_stage_1_left_out_must_be_left_out(vlm, tmp_path):
    path = checkpoint(vlm, tmp_path, unannotated=(1,))
    with pytest.raises(ValueError, match=r"without classes \[1\] \(S\).*`unannotated` in the datalist"):
        load_prompted_vision(path, ANATOMY, unannotated=())
    assert load_prompted_vision(path, ANATOMY, unannotated=(1, 2)).unannotated == (1,)


def test_another_image_size_is_refused(vlm, tmp_path):
    with pytest.raises(ValueError, match=r"`slice_size` is \(64, 16\)"):
        load_prompted_vision(checkpoint(vlm, tmp_path), image_size=(64, 16))


def test_other_pixels_are_refused_where_the_file_has_the_plan_of_its_run(vlm, tmp_path):
    plan = Plan(ANATOMY, (), 1.5, (32, 16))
    save_prompted_vision(tmp_path / "vlm.pt", vlm.freeze(), ANATOMY, plan)
    assert torch.load(tmp_path / "vlm.pt", weights_only=True)["plan"] == plan.to_dict()
    load_prompted_vision(tmp_path / "vlm.pt", ANATOMY, plan=replace(plan, trained_on={"method": "other"}))
    with pytest.raises(ValueError, match=r"other pixels than this run's \(spacing_mm is 0.6, of the weights 1.5\)"):
        load_prompted_vision(tmp_path / "vlm.pt", ANATOMY, plan=replace(plan, spacing_mm=0.6))
    load_prompted_vision(checkpoint(vlm, tmp_path), plan=plan)  # a file without: nothing to compare


@pytest.mark.parametrize("content", ["text", "state_dict", "list", "truncated", "missing", "version", "weights"])
def test_files_that_are_no_stage_1_checkpoint_are_refused(vlm, tmp_path, content):
    path = checkpoint(vlm, tmp_path)
    whole = torch.load(path, weights_only=True)
    if content == "text":
        path.write_text("not a checkpoint")
    elif content == "state_dict":
        torch.save({"weight": torch.zeros(2)}, path)
    elif content == "list":
        torch.save([1, 2], path)
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "missing":
        path.unlink()
    elif content == "version":
        torch.save({**whole, "version": 99}, path)
    else:
        torch.save({**whole, "weights": {k: v for k, v in whole["weights"].items() if "projection" not in k}}, path)
    with pytest.raises(ValueError, match=r"(?s)vlm\.pt.*training_stage1"):
        load_prompted_vision(path, ANATOMY)


def test_saving_with_another_anatomy_is_refused(vlm, tmp_path):
    with pytest.raises(ValueError, match="3 classes and the anatomy 2"):
        save_prompted_vision(tmp_path / "vlm.pt", vlm.freeze(), Anatomy(STRUCTURES[:2]))


def test_bad_options_are_refused_by_name(tiny):
    text = TextEncoder(tiny)
    with pytest.raises(ValueError, match="background is 'rest'"):
        VisionLanguageModel(vision(), text, ANATOMY.prompts, background="rest")
    with pytest.raises(ValueError, match="logit_scale_init is -1"):
        VisionLanguageModel(vision(), text, ANATOMY.prompts, logit_scale_init=-1.0)
    with pytest.raises(ValueError, match=r"unannotated holds \[7\]"):
        VisionLanguageModel(vision(), text, ANATOMY.prompts, unannotated=(7,))
    with pytest.raises(ValueError, match="complement"):
        VisionLanguageModel(vision(), text, ANATOMY.prompts, background="complement", unannotated=(1, 2))
    with pytest.raises(ValueError, match="activation 'softmax', under which A_0 would not be 1 - max of A"):
        VisionLanguageModel(vision(), text, ANATOMY.prompts, background="complement", activation="softmax")


def test_embeddings_of_both_sides_are_what_the_logits_compare(vlm):
    image = torch.rand(2, 1, 32, 16)
    patches, prompts = vlm(image, embeddings=True)
    cosine = torch.einsum("behw,ce->bchw", patches, prompts)
    torch.testing.assert_close(vlm.logit_scale * cosine + vlm.logit_bias, vlm(image))
    for side in (patches, prompts):
        torch.testing.assert_close(side.norm(dim=1), torch.ones_like(side.norm(dim=1)))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_activation_travels_with_the_weights_and_makes_the_maps(tiny, activation, tmp_path):
    model = VisionLanguageModel(
        vision(), TextEncoder(tiny), ANATOMY.prompts, 12, unannotated=(2,), activation=activation
    )
    save_prompted_vision(tmp_path / "p.pt", model.freeze(), ANATOMY)
    loaded = load_prompted_vision(tmp_path / "p.pt", activation=activation)
    image = torch.rand(1, 1, 32, 16)
    kept = loaded(image)[:, :2]
    expected = kept.sigmoid() if activation == "sigmoid" else kept.softmax(1)
    maps = loaded.attention_maps(image)
    torch.testing.assert_close(maps[:, :2], expected)
    assert (maps[:, 2] == 0).all()
    other = {"sigmoid": "softmax", "softmax": "sigmoid"}[activation]
    with pytest.raises(ValueError, match=f"trained with A as the {activation} .* takes the {other}"):
        load_prompted_vision(tmp_path / "p.pt", activation=other)


def test_the_file_says_by_which_objective_it_was_trained(vlm, tmp_path):
    frozen = vlm.freeze()
    frozen.objective, frozen.substitution = "MGCA objective on class prompts", "reports: captions of the label"
    save_prompted_vision(tmp_path / "p.pt", frozen, ANATOMY)
    loaded = load_prompted_vision(tmp_path / "p.pt")
    assert (loaded.objective, loaded.substitution) == (frozen.objective, frozen.substitution)
    content = torch.load(tmp_path / "p.pt", weights_only=True)
    old = {key: value for key, value in content.items() if key not in ("activation", "objective")}
    old["arguments"].pop("projection")
    torch.save(old, tmp_path / "old.pt")
    assert load_prompted_vision(tmp_path / "old.pt", activation="softmax").activation == "softmax"
    content["arguments"]["projection"] = "cubic"
    torch.save(content, tmp_path / "mlp.pt")
    with pytest.raises(ValueError, match="projection of kind 'cubic'"):
        load_prompted_vision(tmp_path / "mlp.pt")


def test_a_run_named_after_another_objective_than_its_stage_1_is_refused(vlm, tmp_path):
    frozen = vlm.freeze()
    frozen.objective, frozen.substitution = "CLIP objective on class prompts", "captions: class prompts"
    save_prompted_vision(tmp_path / "p.pt", frozen, ANATOMY)
    told = {"stage 1": "CLIP objective on class prompts", "stage 1, stand-in": "captions: class prompts"}
    assert objective_of(tmp_path / "p.pt") == told
    assert load_prompted_vision(tmp_path / "p.pt", objective=told["stage 1"]).objective == told["stage 1"]
    with pytest.raises(ValueError, match=r"trained by 'CLIP objective .* would be named 'MGCA"):
        load_prompted_vision(tmp_path / "p.pt", objective="MGCA objective on class prompts")
    save_prompted_vision(tmp_path / "p.pt", vlm.freeze(), ANATOMY)
    assert objective_of(tmp_path / "p.pt") == {}
    with pytest.raises(ValueError, match="an objective that it does not name"):
        load_prompted_vision(tmp_path / "p.pt", objective="MGCA objective on class prompts")


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_projections_of_either_kind_come_back_from_the_file(projection, tiny, tmp_path):
    model = VisionLanguageModel(vision(), TextEncoder(tiny), ANATOMY.prompts, 12, projection=projection)
    images = torch.rand(3, 1, 32, 16)
    for _ in range(3):
        model.train()(images)  # statistics of BatchNorm, where there is any
    save_prompted_vision(tmp_path / "p.pt", model.freeze(), ANATOMY)
    assert model.training
    loaded = load_prompted_vision(tmp_path / "p.pt")
    torch.testing.assert_close(loaded(images), model.eval()(images))
    assert loaded.arguments["projection"] == projection
    assert [p.shape for p in model.head().state_dict().values()][-1:] == [torch.Size([12])]
    with pytest.raises(ValueError, match="projection is 'cubic'"):
        VisionLanguageModel(vision(), TextEncoder(tiny), ANATOMY.prompts, 12, projection="cubic")
