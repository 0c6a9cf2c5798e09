"""Providers of pseudo-labels: the frozen model asked directly, and from its cache."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cps4_monai.prompt_map import CachedVLMProvider, PromptMapper, PseudoLabelProvider, VLMProvider
from cps4_monai.vision import PromptedVision, VisionEncoder

SIZE = (32, 16)


@pytest.fixture
def model():
    encoder = VisionEncoder("vit_tiny_patch16_224", SIZE, False, patch_size=4, embed_dim=24, depth=1, num_heads=2)
    return PromptedVision(encoder, torch.randn(4, 12), logit_scale=20.0)


@pytest.fixture
def slices():
    return torch.rand(7, 1, *SIZE)


def identity_grid(count: int) -> torch.Tensor:
    return F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, *SIZE], align_corners=False)


def cached(model, slices, **options) -> CachedVLMProvider:
    return CachedVLMProvider(model, PromptMapper(), lambda ids: slices[list(ids)], len(slices), **options)


def test_direct_provider_gives_the_map_of_the_model(model, slices):
    provider = VLMProvider(model, PromptMapper())
    assert isinstance(provider, PseudoLabelProvider)
    result = provider(slices)
    assert result["prompt_map"].shape == (7, 1, *SIZE)
    assert result["prompt_map"].dtype == torch.int64
    assert result["attention_logits"].shape == (7, 4, 8, 4)
    assert not result["attention_logits"].requires_grad
    assert torch.equal(result["prompt_map"], PromptMapper()(model(slices), SIZE))


def test_direct_provider_freezes_the_model(slices):
    encoder = VisionEncoder("vit_tiny_patch16_224", SIZE, False, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    model = PromptedVision(encoder, torch.randn(4, 12)).requires_grad_(True)
    VLMProvider(model, PromptMapper())
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_direct_provider_takes_images_only(model, slices):
    with pytest.raises(TypeError, match="slice_id"):
        VLMProvider(model, PromptMapper())(slices, slice_id=torch.arange(7))


def test_cache_and_direct_agree_without_spatial_transform(model, slices):
    direct = VLMProvider(model, PromptMapper())(slices)
    ids = torch.tensor([4, 0, 6])
    result = cached(model, slices, batch_size=3)(slices[ids], slice_id=ids, grid=identity_grid(3))
    torch.testing.assert_close(result["attention_logits"], direct["attention_logits"][ids], rtol=1e-4, atol=1e-4)
    assert (result["prompt_map"] == direct["prompt_map"][ids]).double().mean() > 0.999


def test_cache_follows_the_spatial_transform(model, slices):
    provider = cached(model, slices)
    ids = torch.arange(7)
    plain = provider(slices, slice_id=ids, grid=identity_grid(7))
    flipped = provider(slices.flip(3), slice_id=ids, grid=identity_grid(7).flip(2))
    assert (flipped["prompt_map"] == plain["prompt_map"].flip(3)).double().mean() > 0.999
    torch.testing.assert_close(flipped["attention_logits"], plain["attention_logits"].flip(3), rtol=1e-4, atol=1e-4)


def test_what_comes_from_outside_the_slice_is_background(model, slices):
    grid = identity_grid(1)
    grid[..., 1] += 1.0  # half of the image lies below the slice
    result = cached(model, slices)(slices[:1], slice_id=torch.tensor([0]), grid=grid)
    assert not result["prompt_map"][:, :, 16:].any()


def test_logits_of_a_cell_that_is_partly_cut_away_are_of_the_part_that_is_left(model, slices):
    """A mean with the mark of what is outside would be a place elsewhere in the slice."""
    grid, ids = identity_grid(1), torch.tensor([0])
    whole = cached(model, slices)(slices[:1], slice_id=ids, grid=grid)["attention_logits"]
    cut = grid.clone()
    cut[:, :3] = 3.0  # three of the four rows of pixels of the first cells
    left = cached(model, slices)(slices[:1], slice_id=ids, grid=cut)["attention_logits"]
    torch.testing.assert_close(left[:, :, 1:], whole[:, :, 1:])
    rows = (whole[:, :, 0] * (1 - 0.375) + whole[:, :, 1] * 0.375).detach()  # the fourth pixel lies 1.5 of 4 below
    torch.testing.assert_close(left[:, :, 0], rows, rtol=1e-3, atol=1e-3)


def test_every_slice_is_asked_for_once(model, slices):
    asked: list[int] = []

    def load(ids):
        asked.extend(ids)
        return slices[list(ids)]

    provider = CachedVLMProvider(model, PromptMapper(), load, len(slices), batch_size=2)
    for _ in range(3):
        provider(slices[:2], slice_id=torch.tensor([5, 1]), grid=identity_grid(2))
    assert asked == list(range(7))


def test_half_precision_cache_is_close(model, slices):
    ids = torch.arange(7)
    full = cached(model, slices)(slices, slice_id=ids, grid=identity_grid(7))
    half = cached(model, slices, dtype=torch.float16)(slices, slice_id=ids, grid=identity_grid(7))
    torch.testing.assert_close(half["attention_logits"], full["attention_logits"], rtol=2e-3, atol=2e-2)


def test_missing_keys_name_the_setting(model, slices):
    with pytest.raises(ValueError, match=r"no \['grid'\].*cache_prompt_logits to false"):
        cached(model, slices)(slices, slice_id=torch.arange(7))
    with pytest.raises(ValueError, match="num_slices is 0"):
        CachedVLMProvider(model, PromptMapper(), lambda ids: slices, 0)
