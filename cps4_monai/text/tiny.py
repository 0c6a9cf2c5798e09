"""A tiny, untrained BERT with its WordPiece tokenizer, written to a folder that the usual calls load."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer

from cps4_monai.atomic_file import write_atomically
from cps4_monai.text.encoder import UNTRAINED_KEY

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def write_tiny_text_encoder(
    folder: str | Path,
    prompts: Sequence[str],
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 2,
    seed: int = 0,
) -> Path:
    """Writes a small BERT with random weights for machines without access to the Hugging Face hub.

    The vocabulary holds the prompts' words whole and every other word letter by letter, so that different prompts stay
    different. config.json marks the weights as untrained: they train at ``lr_new``. The same arguments give the same
    files; the global random state is left alone.

    Args:
        folder: where to write; made where it does not exist.
        prompts: one text per class.
        hidden_size: size of an embedding, a multiple of ``num_heads``.
        num_layers: transformer layers.
        num_heads: attention heads.
        seed: of the random weights.

    Returns:
        The folder.

    Raises:
        ValueError: no prompts, or ``hidden_size`` is no multiple of ``num_heads``.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts is {prompts!r}; expected a list with one text per class")
    if hidden_size < 1 or num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"hidden_size is {hidden_size}; expected a positive multiple of num_heads, {num_heads}")
    folder = Path(folder)
    words = sorted({word for prompt in prompts for word in re.findall(r"[^\W_]+|[^\w\s]|_", prompt.lower())})
    tokens = [*SPECIAL_TOKENS, *words, *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True)
    longest = max(len(row) for row in tokenizer(list(prompts))["input_ids"])
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max(64, 2 * longest),
        hidden_dropout_prob=0.0,  # tells its few prompts apart; noise in the class tokens would only slow that down
        attention_probs_dropout_prob=0.0,
        initializer_range=hidden_size**-0.5,  # BERT's own 0.02 gives all prompts nearly the same class token here
    )
    setattr(config, UNTRAINED_KEY, True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = BertModel(config).state_dict()
    with tempfile.TemporaryDirectory(prefix="cps4-tiny-text-") as scratch:
        # Not by the model's own save_pretrained, which in several processes writes in the first one only.
        config.save_pretrained(scratch)
        save_file(state, Path(scratch) / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(scratch)
        for file in Path(scratch).iterdir():
            write_atomically(folder / file.name, file.read_bytes(), shared=True)  # by each process of several GPUs
    return folder
