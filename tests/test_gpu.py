"""What only a CUDA GPU can show: the whole chain on it, and the prompt map as one CUDA graph."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.losses.attention import masks_and_known_cells
from cps4_monai.method_list import list_methods
from cps4_monai.prompt_map import PromptMapper, VLMProvider
from cps4_monai.prompt_map.cuda_graph import MAX_SHAPES, CudaGraphs
from cps4_monai.vision import PromptedVision, VisionEncoder

SIZE = (64, 32)
LISTED = list_methods(Path(__file__).resolve().parents[1] / "bundle")
METHODS = [entry.name for entry in LISTED if entry.after is None and "_local_" not in entry.name]  # without folders


@pytest.fixture(autouse=True)
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")


@pytest.fixture
def provider() -> VLMProvider:
    encoder = VisionEncoder("vit_tiny_patch16_224", SIZE, False, patch_size=4, embed_dim=24, depth=2, num_heads=2)
    model = PromptedVision(encoder, torch.randn(6, 12), logit_scale=20.0)
    return VLMProvider(model, PromptMapper(presence_threshold=0.3, unannotated=(2,))).to("cuda")


@pytest.mark.parametrize("half", [False, True])
def test_a_replayed_prompt_map_equals_the_one_that_was_computed(provider, half):
    batches = [torch.rand(3, 1, *SIZE, device="cuda") for _ in range(4)]
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=half):
        expected = [provider._answer(images) for images in batches]
        replayed = [provider(images) for images in batches]
    assert len(provider._graphs._recordings) == 1
    for computed, answer in zip(expected, replayed, strict=True):
        torch.testing.assert_close(answer["attention_logits"], computed["attention_logits"])
        assert torch.equal(answer["prompt_map"], computed["prompt_map"])


def test_a_replay_does_not_wait_for_the_device(provider):
    images = torch.rand(3, 1, *SIZE, device="cuda")
    provider(images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        provider(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_shapes_beyond_the_fourth_are_computed_as_they_come(provider):
    for count in range(1, MAX_SHAPES + 3):
        assert len(provider(torch.rand(count, 1, *SIZE, device="cuda"))["prompt_map"]) == count
    assert len(provider._graphs._recordings) == MAX_SHAPES


def test_what_cannot_be_recorded_is_called_and_said(caplog):
    graphs = CudaGraphs(lambda image: {"sum": image * float(image.sum())})  # waits for the host
    with torch.no_grad():
        answer = graphs(torch.ones(1, 1, 2, 2, device="cuda"))
    assert answer["sum"].sum() == 16
    assert "launched one by one" in caplog.text


def test_masks_of_a_volume_are_those_of_the_cpu():
    volume = torch.randint(0, 6, (1, 7, *SIZE), dtype=torch.uint8)
    volume[volume == 5] = NOT_ANNOTATED
    codes = torch.arange(5)
    expected = masks_and_known_cells(volume.transpose(0, 1), codes, (8, 4))
    on_gpu = masks_and_known_cells(volume.cuda().transpose(0, 1), codes.cuda(), (8, 4))
    for computed, reference in zip(on_gpu, expected, strict=True):
        assert torch.equal(computed.cpu(), reference)


@pytest.mark.parametrize("overlay", METHODS)
@pytest.mark.parametrize("amp", [False, True])
def test_both_stages_run_on_the_gpu_and_score_what_is_delivered(run_tiny, tmp_path: Path, overlay, amp):
    settings = {"validate#best#metric": "decoded_val_dice", "amp": amp, "max_epochs": 3, "num_workers": 1}
    run_tiny("run", tmp_path, (overlay,), device_name="cuda:0", **settings)
    with (tmp_path / "stage2" / "metrics.csv").open(encoding="utf-8") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"val_dice", "decoded_val_dice"} <= names
    assert (tmp_path / "stage2" / "model.pt").is_file()
