"""Text encoder and the tiny one: loaded through the calls that load the real ones."""

from __future__ import annotations

import json

import huggingface_hub.constants
import pytest
import torch
from host_reads import HostReads
from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPConfig, CLIPModel, T5Config, T5Model

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.text import TextEncoder, write_tiny_text_encoder

PROMPTS = ["an image of the liver", "an image of the left kidney", "an image of a spleen"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_text_encoder(tmp_path_factory.mktemp("tiny"), PROMPTS, hidden_size=16, num_layers=1)


def test_one_embedding_per_prompt(tiny):
    encoder = TextEncoder(tiny)
    embeddings = encoder(**encoder.tokenize(PROMPTS))
    assert embeddings.shape == (3, 16)
    assert encoder.embed_dim == 16
    assert (torch.pdist(embeddings) > 0.1).all()


def test_each_of_several_processes_writes_all_files(tiny, tmp_path, monkeypatch):
    """transformers' own saving leaves the model and config to the first process; the second would find none."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda *group: 1)
    second = write_tiny_text_encoder(tmp_path, PROMPTS, hidden_size=16, num_layers=1)
    assert {f.name: f.read_bytes() for f in second.iterdir()} == {f.name: f.read_bytes() for f in tiny.iterdir()}


def test_tiny_encoder_says_that_it_is_untrained_and_another_does_not(tiny, tmp_path):
    assert TextEncoder(tiny).pretrained is False
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    del config["cps4_untrained"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert TextEncoder(tmp_path).pretrained is True


def test_padding_changes_no_embedding(tiny):
    for pooling in ("cls", "mean"):
        encoder = TextEncoder(tiny, pooling=pooling).eval()
        alone = encoder(**encoder.tokenize(PROMPTS[:1]))
        torch.testing.assert_close(encoder(**encoder.tokenize(PROMPTS))[:1], alone, rtol=1e-4, atol=1e-5)


def test_no_pass_waits_for_the_device_to_look_at_the_mask(tiny):
    encoder = TextEncoder(tiny).eval()
    tokens = encoder.tokenize(PROMPTS)
    assert not tokens["attention_mask"].all(), "prompts of different lengths"
    with HostReads() as host:
        embeddings = encoder(**tokens)
    assert host.reads == []
    with HostReads() as host:
        torch.testing.assert_close(embeddings, encoder.model(**tokens).last_hidden_state[:, 0])
    assert host.reads, "as transformers reads it by itself"


def test_mean_pooling_is_the_mean_over_real_tokens(tiny):
    cls, mean = TextEncoder(tiny, "cls").eval(), TextEncoder(tiny, "mean").eval()
    tokens = cls.tokenize(PROMPTS)
    hidden = cls.model(**tokens).last_hidden_state
    count = int(tokens["attention_mask"][0].sum())
    torch.testing.assert_close(mean(**tokens)[0], hidden[0, :count].mean(0))
    torch.testing.assert_close(cls(**tokens), hidden[:, 0])


def test_every_parameter_gets_a_gradient(tiny):
    encoder = TextEncoder(tiny)
    encoder(**encoder.tokenize(PROMPTS)).square().sum().backward()
    assert not [name for name, p in encoder.named_parameters() if p.grad is None]


def test_same_seed_same_weights_and_global_random_state_untouched(tmp_path):
    state = torch.get_rng_state()
    write_tiny_text_encoder(tmp_path / "a", PROMPTS, hidden_size=16, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    write_tiny_text_encoder(tmp_path / "b", PROMPTS, hidden_size=16, seed=3)
    write_tiny_text_encoder(tmp_path / "c", PROMPTS, hidden_size=16, seed=4)
    a, b, c = ((tmp_path / x / "model.safetensors").read_bytes() for x in "abc")
    assert a == b != c


def test_tiny_tokenizer_knows_the_prompts_and_spells_other_words(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert tokenizer.tokenize("the Liver") == ["the", "liver"]
    assert tokenizer.tokenize("rib") == ["r", "##i", "##b"]


def test_all_prompts_of_the_anatomy_stay_apart(tmp_path):
    encoder = TextEncoder(write_tiny_text_encoder(tmp_path, MRSPINESEG.prompts, hidden_size=8, num_layers=1))
    assert encoder.tokenize(MRSPINESEG.prompts)["input_ids"].shape[0] == 20


def test_prompts_that_become_the_same_tokens_are_refused(tiny):
    with pytest.raises(ValueError, match=r"prompts 0 and 2 .* cannot be told apart"):
        TextEncoder(tiny).tokenize(["liver", "spleen", "LIVER"])


def test_prompts_too_long_are_refused_with_the_limit(tiny):
    with pytest.raises(ValueError, match="takes at most 64: shorten"):
        TextEncoder(tiny).tokenize(["liver " * 100, "spleen"])


@pytest.mark.parametrize("prompts", [[], "liver"])
def test_no_prompts_are_refused(tiny, tmp_path, prompts):
    with pytest.raises(ValueError, match="expected a list with one text per class"):
        TextEncoder(tiny).tokenize(prompts)
    with pytest.raises(ValueError, match="expected a list with one text per class"):
        write_tiny_text_encoder(tmp_path, prompts)


def test_unknown_pooling_and_sizes_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="pooling is 'max'"):
        TextEncoder(tiny, pooling="max")
    with pytest.raises(ValueError, match="multiple of num_heads, 3"):
        write_tiny_text_encoder(tmp_path, PROMPTS, hidden_size=16, num_heads=3)


def test_missing_and_empty_folders_and_files_say_how_to_pass_a_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no encoder")
    for name in ("missing", "empty", "file"):
        with pytest.raises(ValueError, match="pass a local folder as the text encoder's name_or_path") as error:
            TextEncoder(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_corrupt_weights_say_how_to_pass_a_folder(tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="pass a local folder"):
        TextEncoder(tmp_path)


def test_offline_error_says_how_to_pass_a_folder(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"hf download nobody/no-such-encoder --local-dir FOLDER"):
        TextEncoder("nobody/no-such-encoder")


def test_encoder_decoders_are_refused(tiny, tmp_path):
    for file in tiny.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    T5Model(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder-decoder"):
        TextEncoder(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "longformer"])
def test_masks_are_made_ready_for_models_that_take_them_and_left_as_they_are_for_others(kind, tiny, tmp_path):
    """A GPT-2 would look ahead by a ready mask, a Longformer fails at one."""
    sizes = {
        "bert": {},
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
        "longformer": {"attention_window": 8, "max_position_embeddings": 66},
    }[kind]
    usual = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=0, **(usual | sizes))
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path, "mean").eval()
    tokens = encoder.tokenize(PROMPTS)
    hidden = encoder.model(**tokens).last_hidden_state
    weights = tokens["attention_mask"].unsqueeze(-1).float()
    torch.testing.assert_close(encoder(**tokens), (hidden * weights).sum(1) / weights.sum(1), rtol=1e-3, atol=1e-4)
    with HostReads() as host:
        encoder(**tokens)
    assert (host.reads == []) is (kind == "bert")


def saved(kind, tiny, folder, tokenizer=None, **sizes):
    """An encoder with random weights and the tokenizer of the tiny one."""
    usual = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(tiny)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=0, **(usual | sizes))
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}


def test_weights_that_are_missing_are_not_drawn_at_random(tiny, tmp_path):
    model = saved("bert", tiny, tmp_path)
    TextEncoder(tmp_path)
    state = {k: v for k, v in model.state_dict().items() if "layer.1." not in k and "pooler" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"lacks \d+ of its weights \(encoder\.layer\.1\..*copy the encoder's files"):
        TextEncoder(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_16_bits_are_trained_in_single_precision(dtype, tiny, tmp_path):
    saved("bert", tiny, tmp_path).to(dtype).save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder(**encoder.tokenize(PROMPTS)).dtype == torch.float32


def test_a_first_token_that_stands_for_nothing_is_not_pooled(tiny, tmp_path):
    saved("gpt2", tiny, tmp_path / "back", **GPT2)
    with pytest.raises(ValueError, match=r"first token does not see the words after it.*set it to 'mean'"):
        TextEncoder(tmp_path / "back")
    TextEncoder(tmp_path / "back", "mean")
    saved("bert", tiny, tmp_path / "left", AutoTokenizer.from_pretrained(tiny, padding_side="left"))
    with pytest.raises(ValueError, match=r"pads on the left.*set it to 'mean'"):
        TextEncoder(tmp_path / "left")


def test_a_folder_without_words_or_without_a_padding_token_is_refused(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    saved("bert", tiny, tmp_path / "words")
    for file in (tmp_path / "words").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"knows no words.*tokenizer\.json"):
        TextEncoder(tmp_path / "words")
    tokenizer.pad_token = None
    saved("gpt2", tiny, tmp_path / "pad", tokenizer, **GPT2)
    with pytest.raises(ValueError, match=r"has no padding token.*'pad_token' in its tokenizer_config\.json"):
        TextEncoder(tmp_path / "pad", "mean")


def test_an_encoder_of_images_and_text_is_refused(tiny, tmp_path):
    sides = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = CLIPConfig(
        text_config={**sides, "vocab_size": 50}, vision_config={**sides, "image_size": 32, "patch_size": 16}
    )
    CLIPModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no encoder of text alone \(clip\)"):
        TextEncoder(tmp_path)
