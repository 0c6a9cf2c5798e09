"""Masked autoencoding: what is hidden stays hidden, the loss by hand, the file that stage 1 starts from."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.vision import MaskedAutoencoder, VisionEncoder, save_image_encoder
from cps4_monai.vision.timm_import import timm

TINY = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def encoder(**more) -> VisionEncoder:
    return VisionEncoder("vit_tiny_patch16_224", (32, 16), False, **{**TINY, **more})


def autoencoder(**options) -> MaskedAutoencoder:
    return MaskedAutoencoder(encoder(), **{"decoder_dim": 8, **options})


def test_one_loss_a_slice_and_gradients_for_all_but_the_class_tokens_place():
    model = autoencoder()
    losses = model(torch.rand(3, 1, 32, 16))
    assert losses.shape == (3,) and losses.isfinite().all()
    losses.mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_the_encoder_never_sees_what_is_hidden():
    model = autoencoder(mask_ratio=0.5).eval()
    order = torch.arange(8).expand(2, 8)  # the first four patches, the upper half, are shown
    images = torch.rand(1, 1, 32, 16).repeat(2, 1, 1, 1)
    images[1, :, 16:] = torch.rand(1, 16, 16)
    tokens = model._encode(images, order[:, :4])
    assert tokens.shape == (2, 4, 24) and torch.equal(tokens[0], tokens[1])


def test_decoded_patches_return_to_their_places():
    model = autoencoder(mask_ratio=0.5)
    order = torch.tensor([[6, 1, 3, 0, 7, 2, 5, 4]])
    seen = []
    model.decoder = torch.nn.Module()
    model.decoder.forward = lambda tokens: seen.append(tokens) or torch.zeros(1, 8, 64)  # type: ignore[method-assign]
    with torch.no_grad():
        model.position.zero_()
        tokens = torch.randn(1, 4, 24)
        model._decode(tokens, order)
        shown = model.to_decoder(tokens)[0]
    for rank, patch in enumerate([6, 1, 3, 0]):
        torch.testing.assert_close(seen[0][0, patch], shown[rank])
    for patch in (7, 2, 5, 4):
        torch.testing.assert_close(seen[0][0, patch], model.hidden_token)


def test_targets_are_patches_of_mean_0_and_variance_1_in_the_encoders_order():
    image = torch.zeros(1, 1, 32, 16)
    image[0, 0, 8:16, 8:16] = torch.rand(8, 8)  # second row, second column: patch 3
    targets = autoencoder()._targets(image)
    assert targets.shape == (1, 8, 64) and not targets[0, [0, 1, 2, 4, 5, 6, 7]].any()
    patch = image[0, 0, 8:16, 8:16].flatten()
    torch.testing.assert_close(targets[0, 3], (patch - patch.mean()) / patch.std(), rtol=1e-3, atol=1e-4)


def test_the_loss_counts_hidden_patches_only():
    model = autoencoder(mask_ratio=0.5)
    image = torch.rand(1, 1, 32, 16)
    targets = model._targets(image)
    torch.manual_seed(3)
    order = torch.rand(1, 8).argsort(dim=1)
    wrong = targets.clone()
    wrong[0, order[0, :4]] += 100.0  # patches that are shown
    wrong[0, order[0, 4]] += 2.0  # one of the four hidden ones
    model._decode = lambda tokens, order: wrong  # type: ignore[method-assign]
    torch.manual_seed(3)
    assert model(image).item() == pytest.approx(4.0 / 4)


def test_it_learns():
    model = autoencoder(mask_ratio=0.5, decoder_dim=32)
    ramp = torch.linspace(0, 1, 32)[:, None].expand(32, 16)[None, None]  # every patch looks alike once it is scaled
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(ramp.expand(4, 1, 32, 16)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9 and losses[-1] < 0.1


def test_stage_1_starts_from_the_file(tmp_path):
    trained = encoder()
    path = tmp_path / "new" / "vision_encoder.pt"
    save_image_encoder(path, trained)
    started = encoder(checkpoint_path=path)
    assert started.pretrained
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), started.parameters(), strict=True))
    with pytest.raises(ValueError, match="does not hold weights"):
        encoder(checkpoint_path=path, depth=3)


def places_of(encoder, grid):
    """Position embeddings as a picture (h, w) of each channel."""
    return encoder.model.pos_embed.detach()[0, 1:].reshape(*grid, -1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((32, 16), (64, 32)),  # 4 x 2 patches: no square
        ((64, 16), (32, 32)),  # 8 x 2 patches: as many as a square of 4 x 4
        ((32, 16), (16, 32)),  # as many patches, of another grid
    ],
)
def test_position_embeddings_of_slices_of_another_size_are_resampled_by_their_own_grid(before, after, tmp_path):
    trained = VisionEncoder("vit_tiny_patch16_224", before, False, **TINY)
    old, new = trained.grid_size, (after[0] // 8, after[1] // 8)
    with torch.no_grad():  # one ramp along H, one along W
        places_of(trained, old)[..., 0] = torch.linspace(0, 1, old[0])[:, None]
        places_of(trained, old)[..., 1] = torch.linspace(0, 1, old[1])
    save_image_encoder(tmp_path / "vision_encoder.pt", trained)
    started = VisionEncoder("vit_tiny_patch16_224", after, checkpoint_path=tmp_path / "vision_encoder.pt", **TINY)
    places = places_of(started, new)
    assert torch.equal(started.model.pos_embed[:, :1], trained.model.pos_embed[:, :1]), "the class token's stays"
    assert (places[..., 0].diff(dim=0) > 0).all() and places[..., 0].diff(dim=1).abs().max() < 1e-5
    assert (places[..., 1].diff(dim=1) > 0).all() and places[..., 1].diff(dim=0).abs().max() < 1e-5


def test_as_many_patches_as_timms_own_weights_have_are_not_taken_for_their_grid(tmp_path):
    tiny, size = {**TINY, "patch_size": 16}, (448, 112)  # 28 x 7 patches, timm's own weights have 14 x 14
    wide = VisionEncoder("vit_tiny_patch16_224", size, False, **tiny)
    save_image_encoder(tmp_path / "vision_encoder.pt", wide)
    again = VisionEncoder("vit_tiny_patch16_224", size, checkpoint_path=tmp_path / "vision_encoder.pt", **tiny)
    assert torch.equal(again.model.pos_embed, wide.model.pos_embed)


def test_a_file_that_does_not_name_its_grid_is_refused_at_another_one_and_says_what_to_do(tmp_path):
    torch.save(encoder().model.state_dict(), tmp_path / "old.pt")  # as versions before wrote it
    assert encoder(checkpoint_path=tmp_path / "old.pt").pretrained
    with pytest.raises(ValueError, match=r"of 8 patches, this encoder has 8 x 4, .*no square: pretrain again"):
        VisionEncoder("vit_tiny_patch16_224", (64, 32), checkpoint_path=tmp_path / "old.pt", **TINY)


@pytest.mark.parametrize("options", [{"mask_ratio": 0.0}, {"mask_ratio": 0.99}, {"decoder_dim": 9, "decoder_heads": 2}])
def test_bad_sizes_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        autoencoder(**options)


def test_other_models_are_refused():
    other = encoder()
    other.model = torch.nn.Identity()
    with pytest.raises(ValueError, match="needs a plain ViT"):
        MaskedAutoencoder(other)
    with pytest.raises(ValueError, match="needs stem='patch'"):
        MaskedAutoencoder(encoder(stem="conv"))


def test_a_file_of_another_number_of_heads_is_refused_though_its_tensors_fit(tmp_path):
    sizes = {"pretrained": False, "patch_size": 8, "embed_dim": 24, "depth": 1}
    save_image_encoder(tmp_path / "vit.pt", VisionEncoder("vit_tiny_patch16_224", (32, 16), num_heads=2, **sizes))
    with pytest.raises(ValueError, match="it has 2 attention heads, this encoder 4"):
        VisionEncoder("vit_tiny_patch16_224", (32, 16), num_heads=4, checkpoint_path=tmp_path / "vit.pt", **sizes)


def test_a_vit_with_attention_pooling_comes_back_without_it(tmp_path):
    sizes = {"pretrained": False, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    before = VisionEncoder("vit_base_patch16_siglip_224", (32, 16), **sizes)
    save_image_encoder(tmp_path / "vit.pt", before)
    after = VisionEncoder("vit_base_patch16_siglip_224", (32, 16), checkpoint_path=tmp_path / "vit.pt", **sizes)
    assert before.model.attn_pool is None
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    in_colour = {**sizes, "img_size": (32, 16), "num_classes": 0}
    publishers = timm.create_model("vit_base_patch16_siglip_224", **in_colour)
    torch.save(publishers.state_dict(), tmp_path / "timm.pth")
    assert "attn_pool.latent" in publishers.state_dict()
    loaded = VisionEncoder("vit_base_patch16_siglip_224", (32, 16), checkpoint_path=tmp_path / "timm.pth", **sizes)
    assert torch.equal(loaded.model.norm.weight, publishers.norm.weight)
    assert torch.equal(loaded.model.blocks[0].attn.qkv.weight, publishers.blocks[0].attn.qkv.weight)
