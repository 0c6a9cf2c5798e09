"""ViT of timm as patch encoder: shapes, order of the tokens, weights from a file, and errors with their fix."""

from __future__ import annotations

import argparse

import huggingface_hub.constants
import pytest
import timm
import torch

from cps4_monai.vision.encoder import VisionEncoder
from cps4_monai.vision.encoder_weights import for_one_channel, normalisation

SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def small(image_size=(32, 16), name="vit_tiny_patch16_224", **options) -> VisionEncoder:
    return VisionEncoder(name, image_size, pretrained=False, **{**SMALL, **options}).eval()


def test_patch_tokens_of_a_non_square_slice():
    encoder = small()
    assert encoder(torch.rand(3, 1, 32, 16)).shape == (3, 24, 4, 2)
    assert (encoder.grid_size, encoder.embed_dim, encoder.pretrained) == ((4, 2), 24, False)


def test_each_token_lies_where_its_patch_lies():
    encoder = small(image_size=(24, 40), depth=0)  # no attention: a token sees its own patch only
    image = torch.full((1, 1, 24, 40), 0.5)
    changed = image.clone()
    changed[..., 8:16, 32:40] = 1.0  # row 1, column 4 of the grid
    moved = (encoder(changed) - encoder(image)).abs().amax(1)[0] > 1e-4
    assert moved.nonzero().tolist() == [[1, 4]]


def test_images_are_normalised_as_in_pretraining():
    encoder = small()
    assert (float(encoder.mean), float(encoder.std)) == (0.5, 0.5)
    seen = []
    encoder.model.patch_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoder(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 1, 32, 2).repeat(1, 1, 1, 8))
    assert (seen[0].amin().item(), seen[0].amax().item()) == (-1.0, 1.0)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "vit_medium_patch16_reg4_gap_256"])
def test_prefix_tokens_are_dropped_and_no_parameter_is_idle(name):
    encoder = small(name=name)
    tokens = encoder(torch.rand(1, 1, 32, 16))
    assert tokens.shape == (1, 24, 4, 2)
    tokens.square().sum().backward()
    assert not [key for key, p in encoder.named_parameters() if p.grad is None]


def test_a_convolutional_stem_sees_beyond_its_patch_and_comes_down_to_the_same_grid():
    encoder = small(image_size=(24, 40), depth=0, stem="conv")
    assert encoder.grid_size == (3, 5)
    image = torch.full((1, 1, 24, 40), 0.5)
    changed = image.clone()
    changed[..., 8:16, 24:32] = 1.0  # row 1, column 3 of the grid
    moved = (encoder(changed) - encoder(image)).abs().amax(1)[0] > 1e-4
    assert moved[1, 3] and moved[1, 4] and not moved[:, :2].any(), "neighbours overlap, what lies far away does not"
    encoder(image).square().sum().backward()
    assert not [key for key, p in encoder.named_parameters() if p.grad is None]


def test_attention_is_plain_under_autocast_on_a_cpu_and_fusing_it_changes_no_result():
    encoder, image = small(), torch.rand(2, 1, 32, 16)
    plain = encoder(image)
    assert encoder.model.blocks[0].attn.fused_attn, "faster in float32"
    with torch.autocast("cpu", torch.bfloat16):
        encoder(image)
    assert not encoder.model.blocks[0].attn.fused_attn, "slower in bfloat16"
    tokens = encoder.model.forward_features((image - encoder.mean) / encoder.std)[:, 1:]
    torch.testing.assert_close(tokens.transpose(1, 2).unflatten(2, (4, 2)), plain)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_arguments_rebuild_the_same_architecture(stem):
    encoder = small(stem=stem)
    again = VisionEncoder(**encoder.arguments).eval()
    again.load_state_dict(encoder.state_dict())
    image = torch.rand(1, 1, 32, 16)
    assert torch.equal(again(image), encoder(image))


@pytest.fixture(scope="module")
def rgb_weights(tmp_path_factory):
    """Weights as the hub gives them: three channels, a square grid, a classifier."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=64)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save(model.state_dict(), path)
    return path, model


def test_weights_from_a_file_are_adapted_to_one_channel_and_the_grid(rgb_weights):
    path, model = rgb_weights
    for where in (path, path.parent):  # the file, or its folder
        encoder = VisionEncoder("vit_tiny_patch16_224", (128, 64), checkpoint_path=where)
        assert encoder.pretrained
        assert encoder(torch.rand(1, 1, 128, 64)).shape == (1, 192, 8, 4)
    conv = model.patch_embed.proj.weight
    torch.testing.assert_close(encoder.model.patch_embed.proj.weight, conv.sum(1, keepdim=True))
    torch.testing.assert_close(encoder.model.blocks[3].attn.qkv.weight, model.blocks[3].attn.qkv.weight)
    assert encoder.model.pos_embed.shape == (1, 1 + 8 * 4, 192)


def imagenet_vit(**options):
    """A ViT whose colours were normalised by a mean and deviation of their own, with a bias that is not zero."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), num_classes=0, depth=1, **options)
    model.pretrained_cfg.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    torch.nn.init.normal_(model.patch_embed.proj.bias)
    return model.eval()


def test_a_grey_slice_gets_the_tokens_of_three_equal_colours():
    in_colour, grey = imagenet_vit(), VisionEncoder("vit_tiny_patch16_224", (64, 32), False, depth=1).eval()
    grey.model.load_state_dict(for_one_channel(in_colour.state_dict(), in_colour))
    grey.mean, grey.std = (normalisation(in_colour)[key].mean() for key in ("mean", "std"))
    image = torch.rand(2, 1, 64, 32)
    mean, std = (normalisation(in_colour)[key].view(1, 3, 1, 1) for key in ("mean", "std"))
    expected = in_colour.forward_features((image.expand(-1, 3, -1, -1) - mean) / std)[:, 1:]
    torch.testing.assert_close(grey(image).flatten(2).transpose(1, 2), expected, rtol=1e-3, atol=1e-4)


def test_weights_for_one_channel_stay_as_they_are():
    model = imagenet_vit(in_chans=1)
    state = for_one_channel(model.state_dict(), model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_weights_of_the_hub_are_fitted_to_one_channel_like_those_of_a_file(monkeypatch, tmp_path):
    create, made = timm.create_model, []

    def with_weights(name, pretrained=False, **options):
        model = create(name, pretrained=False, **options)
        made.extend([model] if pretrained else [])
        return model

    monkeypatch.setattr(timm, "create_model", with_weights)
    hub = VisionEncoder("vit_small_patch14_dinov2", (28, 28), pretrained=True)
    (in_colour,) = made
    assert in_colour.patch_embed.proj.weight.shape[1] == 3
    torch.save(in_colour.state_dict(), tmp_path / "model.pth")
    file = VisionEncoder("vit_small_patch14_dinov2", (28, 28), checkpoint_path=tmp_path)
    assert all(torch.equal(value, file.state_dict()[key]) for key, value in hub.state_dict().items())


def test_a_hub_out_of_reach_names_the_encoders_of_the_index_for_both_commands(monkeypatch):
    create = timm.create_model

    def unreachable(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ValueError, match="cannot be had from the Hugging Face hub") as caught:
        VisionEncoder("vit_tiny_patch16_224", (32, 16), pretrained=True)
    assert "`--overlay pretrained`" in str(caught.value) and "configs/pretrained.json as the last" in str(caught.value)


@pytest.mark.parametrize(("patch_size", "tolerance"), [(16, 1e-3), (8, 0.3), (4, 0.5)])
def test_another_patch_size_answers_alike_to_a_constant_picture(rgb_weights, tmp_path, patch_size, tolerance):
    smooth = dict(rgb_weights[1].state_dict())
    smooth["patch_embed.proj.weight"] = smooth["patch_embed.proj.weight"] + 0.01  # the noise of a random kernel cancels
    torch.save(smooth, tmp_path / "model.pth")
    size = (4 * patch_size, 4 * patch_size)
    encoder = VisionEncoder("vit_tiny_patch16_224", size, checkpoint_path=tmp_path, patch_size=patch_size)
    found = encoder.model.patch_embed.proj.weight.detach().sum((1, 2, 3))
    expected = smooth["patch_embed.proj.weight"].sum((1, 2, 3))
    assert float((found - expected).norm() / expected.norm()) < tolerance


def test_same_grid_keeps_the_position_embeddings(rgb_weights):
    path, model = rgb_weights
    encoder = VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=path)
    torch.testing.assert_close(encoder.model.pos_embed, model.pos_embed)


def test_weights_of_another_vit_are_refused(rgb_weights):
    with pytest.raises(ValueError, match="does not hold weights of VisionTransformer"):
        VisionEncoder("vit_small_patch16_224", (64, 64), checkpoint_path=rgb_weights[0])


def test_files_that_hold_no_weights_are_refused(tmp_path):
    for bad in (tmp_path / "bad.pth", tmp_path / "bad.safetensors"):
        bad.write_text("no weights")
        with pytest.raises(ValueError, match=rf"{bad.name} does not hold weights"):
            VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=bad)
    with pytest.raises(ValueError, match="does not exist; pass as checkpoint_path"):
        VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=tmp_path / "missing.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds none of \['model.safetensors'"):
        VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=tmp_path / "empty")


def test_offline_error_says_how_to_pass_a_file(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="pass checkpoint_path, a local file or folder"):
        VisionEncoder("vit_tiny_patch16_224.augreg_in21k", (64, 64), pretrained=True)


def test_unknown_names_get_suggestions():
    with pytest.raises(ValueError, match="vit_base_patch16_224"):
        VisionEncoder("vit_base_patch16_22", pretrained=False)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_models_that_are_no_vit_are_refused(name):
    with pytest.raises(ValueError, match=name):
        VisionEncoder(name, (64, 64), pretrained=False)


@pytest.mark.parametrize("image_size", [(30, 16), (32, 12)])
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(image_size):
    with pytest.raises(ValueError, match=r"multiples of the patch size \(8, 8\)"):
        small(image_size)


@pytest.mark.parametrize("image_size", [(32,), (32, 0), (32.5, 16)])
def test_sizes_that_are_no_sizes_are_refused(image_size):
    with pytest.raises(ValueError, match="two positive whole numbers"):
        small(image_size)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 16, 32\); expected \(B, 1, 32, 16\)"):
        small()(torch.rand(1, 1, 16, 32))


def test_a_stem_of_halvings_needs_a_patch_that_is_a_power_of_two():
    with pytest.raises(ValueError, match="patch_size is 5; expected 2, 4, 8 or 16 with stem='conv'"):
        small(image_size=(40, 20), patch_size=5, stem="conv")
    with pytest.raises(ValueError, match="stem is 'cnn'; expected one of"):
        small(stem="cnn")
    with pytest.raises(ValueError, match="starts from random weights"):
        VisionEncoder("vit_tiny_patch16_224", (32, 16), pretrained=True, stem="conv")
    with pytest.raises(ValueError, match="no checkpoint_path"):
        small(stem="conv", checkpoint_path="weights.pt")


def test_architecture_overrides_with_pretrained_weights_are_refused():
    with pytest.raises(ValueError, match="pretrained=False"):
        VisionEncoder("vit_tiny_patch16_224", (32, 16), pretrained=True, depth=2)


def test_fewer_blocks_are_the_first_ones_of_a_checkpoint(rgb_weights):
    path = rgb_weights[0]
    encoder = VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=path, depth=3).eval()
    assert len(encoder.blocks) == 3
    image = torch.rand(1, 1, 64, 64)
    whole = VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=path).eval()
    whole.model.blocks = whole.model.blocks[:3]
    torch.testing.assert_close(encoder(image), whole(image))
    with pytest.raises(ValueError, match=r"does not hold weights.*blocks\.12"):
        VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=path, depth=13)


def test_frozen_blocks_learn_nothing_and_later_ones_all(rgb_weights):
    path = rgb_weights[0]
    plain = VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=path)
    encoder = VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=path, frozen_blocks=9)
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = encoder(image)
    torch.testing.assert_close(tokens, plain(image))
    tokens.square().mean().backward()
    learning = {name for name, parameter in encoder.model.named_parameters() if parameter.grad is not None}
    blocks = {int(name.split(".")[1]) for name in learning if name.startswith("blocks")}
    assert blocks == {9, 10, 11}
    assert not any(name.startswith(("patch_embed", "pos_embed", "cls_token")) for name in learning)


@pytest.mark.parametrize("blocks", [-1, 12])
def test_frozen_blocks_are_some_of_the_pretrained_ones(rgb_weights, blocks):
    with pytest.raises(ValueError, match="expected 0 to 11"):
        VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=rgb_weights[0], frozen_blocks=blocks)
    with pytest.raises(ValueError, match="nothing was pretrained"):
        small(frozen_blocks=1)


def test_dinov2_with_registers_as_its_publisher_has_it_is_resampled(tmp_path):
    name, places = "vit_small_patch14_reg4_dinov2", torch.randn(1, 1 + 37 * 37, 384)
    model = timm.create_model(name, num_classes=0, img_size=224, depth=1)
    state = {key: value for key, value in model.state_dict().items() if key not in ("reg_token", "pos_embed")}
    state |= {"register_tokens": model.reg_token.detach(), "mask_token": torch.zeros(1, 384), "pos_embed": places}
    torch.save(state, tmp_path / "dinov2_vits14_reg4.pth")
    path = tmp_path / "dinov2_vits14_reg4.pth"
    encoder = VisionEncoder(name, (518, 518), checkpoint_path=path, depth=1)
    assert torch.equal(encoder.model.pos_embed, places[:, 1:])
    torch.testing.assert_close(encoder.model.cls_token.detach(), state["cls_token"] + places[:, :1])
    assert VisionEncoder(name, (224, 112), checkpoint_path=path, depth=1).model.pos_embed.shape == (1, 16 * 8, 384)
    torch.save({**state, "pos_embed": places[:, :1000]}, path)
    with pytest.raises(ValueError, match="which is no square: give stage 1 a slice_size") as caught:
        VisionEncoder(name, (224, 112), checkpoint_path=path, depth=1)
    assert "pretrain again" not in str(caught.value)


def test_a_file_of_weights_is_read_once_with_what_timms_training_keeps_beside_them(rgb_weights, tmp_path, monkeypatch):
    load, read = torch.load, []
    path, model = rgb_weights
    beside = {"args": argparse.Namespace(lr=0.1), "state_dict": {"none": torch.zeros(1)}}
    weights = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({**beside, "state_dict_ema": weights}, tmp_path / "model.pth")
    monkeypatch.setattr(torch, "load", lambda *args, **options: read.append(args) or load(*args, **options))
    averaged = VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=tmp_path)
    assert len(read) == 1
    plain = VisionEncoder("vit_tiny_patch16_224", (64, 64), checkpoint_path=path)
    assert len(read) == 2
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), plain.parameters(), strict=True))
