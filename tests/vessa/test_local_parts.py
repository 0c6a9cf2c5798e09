"""Real components by local folder, as tiny random ones: written to disk, read back, trained a step, no network."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
)

from cps4_monai.losses.upsampled import UpsampledSegmentationLoss
from cps4_monai.vessa import local_folder
from cps4_monai.vessa.feedback import feedback_prompts
from cps4_monai.vessa.local_folder import folder_digest
from cps4_monai.vessa.local_sam2 import LocalSam2
from cps4_monai.vessa.local_vlm import SEG, LocalVLM
from cps4_monai.vessa.parts import Picture

CLASSES, SIZE, WIDTH = 4, (64, 32), 32
NAMES = ["background", "first", "second", "third"]
COLOURS = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory):
    """A Sam2VideoModel for pictures of 64 x 64 pixels."""
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "window_size_per_stage": [8, 4, 4, 2],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    config = Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": hiera,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        image_size=64,
        memory_attention_hidden_size=32,
        memory_attention_num_layers=1,
        memory_encoder_hidden_size=32,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=32,
        mask_downsampler_embed_dim=32,
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam2")
    model = Sam2VideoModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # as drawn, its answers differ in the sixth digit
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vlm_folder(tmp_path_factory):
    """A Qwen3-VL, the architecture that the authors name, with a tokenizer of single words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    special = ["<pad>", "<unk>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    words = ["The", "second", "picture", "is", "an", "example", "each", "structure", "in", "it", "has", "a", "colour"]
    words += ["Find", "the", "same", "structures", "first"]
    vocab = {word: index for index, word in enumerate(dict.fromkeys([*special, *words, *NAMES, ":", ",", "."]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=special[2:]
    )
    images = Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 2048}
    )
    folder = tmp_path_factory.mktemp("vlm")
    template = (
        "{% for message in messages %}{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|>"
        "<|image_pad|><|vision_end|>{% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}"
    )
    from transformers import Qwen3VLVideoProcessor

    Qwen3VLProcessor(images, fast, Qwen3VLVideoProcessor(), chat_template=template).save_pretrained(folder)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(vocab),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=vocab["<|image_pad|>"],
        video_token_id=vocab["<|video_pad|>"],
        vision_start_token_id=vocab["<|vision_start|>"],
        vision_end_token_id=vocab["<|vision_end|>"],
    )
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def asked(make, bands):
    """A picture, its label and templates, and what a student sees."""
    assistant, (image, label) = make().eval(), bands(1, 2)
    with torch.no_grad():
        picture = Picture(image, assistant.image_encoder(image))
        templates = assistant.match(picture, None, 2)
    return picture, label, templates, (label == torch.arange(CLASSES).view(1, -1, 1, 1)).float()


def test_sam2_answers_for_each_class_whatever_the_chunk_and_the_order_of_templates(sam2_folder, asked):
    import dataclasses

    picture, _, templates, said = asked
    seg, feedback = torch.randn(2, CLASSES, WIDTH), feedback_prompts(said)
    decoder = LocalSam2(sam2_folder, CLASSES, WIDTH, chunk=3).eval()
    with torch.no_grad():
        logits = decoder(picture, templates, seg, feedback)
        decoder.chunk = 1
        torch.testing.assert_close(decoder(picture, templates, seg, feedback), logits, atol=1e-4, rtol=1e-4)
        names = ("images", "labels", "tokens", "cells")
        mirrored = dataclasses.replace(templates, **{name: getattr(templates, name).flip(1) for name in names})
        torch.testing.assert_close(decoder(picture, mirrored, seg, feedback), logits, atol=1e-4, rtol=1e-4)
        other = dataclasses.replace(templates, labels=templates.labels.flip(3))
        assert (decoder(picture, other, seg, feedback) - logits).abs().max() > 1e-4
        assert (decoder(picture, templates, seg.flip(1), feedback) - logits).abs().max() > 1e-4
    assert logits.shape == (2, CLASSES, 16, 16)


@pytest.mark.parametrize("kind", ["mask", "box", "point"])
def test_sam2_hears_each_kind_of_feedback(sam2_folder, asked, kind):
    picture, _, templates, said = asked
    decoder, seg = LocalSam2(sam2_folder, CLASSES, WIDTH).eval(), torch.zeros(2, CLASSES, WIDTH)
    with torch.no_grad():
        silent = decoder(picture, templates, seg, feedback_prompts(torch.zeros_like(said), (kind,)))
        told = decoder(picture, templates, seg, feedback_prompts(said, (kind,)))
    assert (told - silent).abs().max() > 1e-4


def test_sam2_trains_all_but_its_eye_and_is_built_again_without_the_folder(sam2_folder, asked):
    picture, label, templates, said = asked
    decoder = LocalSam2(sam2_folder, CLASSES, WIDTH).train()
    templates.there[1] = False
    seg = torch.randn(2, CLASSES, WIDTH, requires_grad=True)
    UpsampledSegmentationLoss()(decoder(picture, templates, seg, feedback_prompts(said, ("mask",))), label).backward()
    assert seg.grad is not None and seg.grad.abs().sum() > 0
    assert all(p.grad is None for p in decoder.model.vision_encoder.parameters())
    for part in (decoder.prompt, decoder.model.memory_encoder, decoder.model.memory_attention):
        assert all(p.grad is not None for p in part.parameters())
    json.dumps(decoder.arguments)  # plain values
    again = LocalSam2(**decoder.arguments).eval()
    again.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        silent = feedback_prompts(said)
        torch.testing.assert_close(
            again(picture, templates, seg, silent), decoder.eval()(picture, templates, seg, silent)
        )


def test_what_sam2_brings_learns_at_the_rate_of_pretrained_parts_and_its_new_layer_at_that_of_new_ones(
    sam2_folder, make
):
    decoder = LocalSam2(sam2_folder, CLASSES, WIDTH)
    assistant = make(mask_decoder=decoder)
    for decay, name in ((1.0, "pretrained"), (0.5, "pretrained 0")):
        pretrained, new = assistant.parameter_groups(1e-5, 1e-3, decay)
        assert (pretrained["name"], pretrained["lr"], new["name"], new["lr"]) == (name, 1e-5, "new", 1e-3)
        read = {id(p) for p in decoder.model.parameters() if p.requires_grad}
        assert {id(p) for p in pretrained["params"]} == read and len(pretrained["params"]) == len(read)
        rest = {id(p) for p in assistant.parameters() if p.requires_grad} - read
        assert {id(p) for p in new["params"]} == rest >= {id(p) for p in decoder.prompt.parameters()}
    assistant.image_encoder.pretrained = True
    eye, both = assistant.image_encoder.parameters(), assistant.parameter_groups(1e-5, 1e-3)[0]
    assert {id(p) for p in both["params"]} == {*read, *map(id, eye)}
    (new,) = make(mask_decoder=LocalSam2(**decoder.arguments)).parameter_groups(1e-5, 1e-3)
    assert new["name"] == "new", "of a configuration alone nothing is pretrained"


def test_the_vlm_answers_by_one_seg_per_class_whose_embedding_learns(vlm_folder, asked):
    picture, _, templates, _ = asked
    reference = LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH).train()
    assert reference.answer_text == ", ".join(f"{name}: {SEG}" for name in NAMES)
    ids = reference.processor.tokenizer([f"{name}: {SEG}" for name in NAMES])["input_ids"]
    assert [row.count(reference.seg_id) for row in ids] == [1] * CLASSES
    seg, text_loss = reference(picture, templates, torch.zeros(0))
    assert seg.shape == (2, CLASSES, WIDTH) and text_loss > 0
    (seg.square().sum() + text_loss).backward()
    assert reference.seg_embedding.grad.abs().sum() > 0 and reference.seg_output.grad.abs().sum() > 0
    assert all(p.grad is None for p in reference.model.parameters())
    assert not any(name.startswith("model") for name in reference.state_dict())
    with torch.no_grad():
        again, no_text = reference.eval()(picture, templates, torch.zeros(0))
    torch.testing.assert_close(again, seg)
    assert no_text is None


def test_the_text_loss_is_that_of_each_answer_token_given_those_before_it(vlm_folder):
    reference = LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH)
    tokenizer, head = reference.processor.tokenizer, reference.model.get_output_embeddings().weight
    answer = tokenizer(reference.answer_text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([tokenizer("The second picture", add_special_tokens=False)["input_ids"] + answer])
    assert ids[0, reference._in_answer(ids)[0]].tolist() == answer
    states = torch.randn(1, ids.shape[1], head.shape[1])
    rows = torch.cat((head[: reference.seg_id], reference.seg_output[None], head[reference.seg_id + 1 :]))
    start = ids.shape[1] - len(answer)
    expected = torch.nn.functional.cross_entropy(states[0, start - 1 : -1] @ rows.T.float(), ids[0, start:])
    torch.testing.assert_close(reference._text_loss(ids, states), expected)


def test_the_vlm_sees_picture_and_template_and_its_copy_shares_the_model(vlm_folder, asked):
    import dataclasses

    picture, _, templates, _ = asked
    reference = LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH).eval()
    with torch.no_grad():
        seg, _ = reference(picture, templates, torch.zeros(0))
        other = dataclasses.replace(picture, image=picture.image.flip(2))
        assert (reference(other, templates, torch.zeros(0))[0] - seg).abs().max() > 1e-6
        other = dataclasses.replace(templates, labels=templates.labels.flip(3))
        assert (reference(picture, other, torch.zeros(0))[0] - seg).abs().max() > 1e-6
        clone = copy.deepcopy(reference)
        torch.testing.assert_close(clone(picture, templates, torch.zeros(0))[0], seg)
        clone.seg_embedding.add_(1.0)
        assert (clone(picture, templates, torch.zeros(0))[0] - seg).abs().max() > 1e-6
    assert clone.model is reference.model and not torch.equal(clone.seg_embedding, reference.seg_embedding)


def test_the_overlay_blends_colours_by_hand_and_is_black_without_a_template(vlm_folder, asked):
    _, _, templates, _ = asked
    templates.there[1] = False
    shown = LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH).overlay(templates)
    code = int(templates.labels[0, 0].max())
    y, x = (templates.labels[0, 0, 0] == code).nonzero()[0].tolist()
    grey = float(templates.images[0, 0, 0, y, x])
    expected = 0.5 * grey + 0.5 * torch.tensor(COLOURS[code]) / 255
    torch.testing.assert_close(shown[0, :, y, x], expected.float())
    assert shown[1].abs().max() == 0


def test_an_assistant_of_real_components_is_saved_and_read_back(vlm_folder, sam2_folder, make, bands, tmp_path):
    from cps4_monai.anatomy import Anatomy, Structure
    from cps4_monai.vessa import load_assistant, save_assistant

    kinds = ("background", "vertebra", "vertebra", "vertebra")
    anatomy = Anatomy(
        [Structure(i, n, n, k, i - 1 if i else None) for i, (n, k) in enumerate(zip(NAMES, kinds, strict=True))]
    )
    reference, decoder = LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH), LocalSam2(sam2_folder, CLASSES, WIDTH)
    assistant, (image, _) = make(reference=reference, mask_decoder=decoder), bands(1, 2)
    assert assistant.waits_for_device
    frozen = assistant.freeze()
    save_assistant(tmp_path / "assistant.pt", frozen, anatomy)
    loaded = load_assistant(tmp_path / "assistant.pt", assistant.bank, anatomy, (), SIZE, vlm_folder=vlm_folder)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), frozen(image))
    assert str(vlm_folder) not in str(torch.load(tmp_path / "assistant.pt", weights_only=True)["arguments"])
    with pytest.raises(ValueError, match="vessa_vlm_folder is None"):
        load_assistant(tmp_path / "assistant.pt", assistant.bank)


def test_folders_without_such_models_are_refused_by_the_name_of_the_setting(sam2_folder, vlm_folder, tmp_path):
    with pytest.raises(ValueError, match=r"vessa_sam2_folder is .*expected a folder"):
        LocalSam2(tmp_path / "nothing", CLASSES, WIDTH)
    with pytest.raises(ValueError, match=r"vessa_vlm_folder is .*Fix: save it there whole"):
        LocalVLM(sam2_folder, NAMES, COLOURS, WIDTH)
    with pytest.raises(ValueError, match="stage 1 had a model of digest abc"):
        LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH, digest="abc")


def test_a_model_of_the_same_architecture_with_other_weights_is_refused(vlm_folder, tmp_path):
    tuned = shutil.copytree(vlm_folder, tmp_path / "tuned")
    torch.manual_seed(1)
    Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(vlm_folder)).save_pretrained(tuned)
    sizes = [sorted((p.name, p.stat().st_size) for p in folder.iterdir()) for folder in (vlm_folder, tuned)]
    assert sizes[0] == sizes[1], "names and sizes tell nothing"
    digest = LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH).arguments["digest"]
    with pytest.raises(ValueError, match="stage 1 had a model of digest"):
        LocalVLM(tuned, NAMES, COLOURS, WIDTH, digest=digest)
    moved = shutil.copytree(vlm_folder, tmp_path / "moved")
    assert LocalVLM(moved, NAMES, COLOURS, WIDTH, digest=digest).arguments["digest"] == digest


def test_each_file_of_a_folder_is_read_once_until_it_changes(tmp_path, monkeypatch):
    weights, read, sha256 = tmp_path / "model.safetensors", [], local_folder.file_sha256
    monkeypatch.setattr(local_folder, "file_sha256", lambda path: read.append(path) or sha256(path))
    weights.write_bytes(b"one")
    first = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == first and len(read) == 1
    weights.write_bytes(b"other")
    assert folder_digest(tmp_path) != first and len(read) == 2


def test_real_components_compute_in_mixed_precision(vlm_folder, sam2_folder, asked):
    picture, label, templates, said = asked
    reference, decoder = LocalVLM(vlm_folder, NAMES, COLOURS, WIDTH), LocalSam2(sam2_folder, CLASSES, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        seg, text_loss = reference.train()(picture, templates, torch.zeros(0))
        logits = decoder.train()(picture, templates, seg, feedback_prompts(said, ("mask", "box")))
    (UpsampledSegmentationLoss()(logits, label) + text_loss).backward()
    assert reference.seg_embedding.grad.isfinite().all() and reference.seg_embedding.grad.abs().sum() > 0


def test_the_overlays_put_real_components_into_both_stages(vlm_folder, sam2_folder, run_tiny, tmp_path):
    overlays = ("vessa", "vessa_local_vlm", "vessa_local_sam2")
    folders = {"vessa_vlm_folder": str(vlm_folder), "vessa_sam2_folder": str(sam2_folder)}
    short = {"iterations_per_epoch": 1, "stage1#iterations_per_epoch": 1, "vessa_width": WIDTH}
    workflow = run_tiny("run", tmp_path, overlays, **folders, **short)
    parsed = workflow.parser.get_parsed_content
    assistant = parsed("train#provider").assistant
    assert isinstance(assistant.reference, LocalVLM) and isinstance(assistant.mask_decoder, LocalSam2)
    assert parsed("stage1#method").waits_for_device
    assert "loss_text" in (tmp_path / "stage1" / "metrics.csv").read_text()
    assert (tmp_path / "stage2" / "model.pt").is_file()
