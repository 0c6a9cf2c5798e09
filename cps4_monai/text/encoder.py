"""A Hugging Face text encoder that turns each class prompt into one token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cps4_monai.pretrained import find_weights
from cps4_monai.text.loading import load_text_model, load_tokenizer

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
        ValueError: the encoder cannot be loaded (not in that folder; hub out of reach; weights or words are missing),
            it is no encoder of text alone, the pooling is unknown, or it is "cls" and the first token stands for
            nothing (a model that looks back only, or padding on the left).
    """

    def __init__(self, name_or_path: str | Path = "emilyalsentzer/Bio_ClinicalBERT", pooling: str = "cls") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {list(POOLINGS)}")
        self.name_or_path = str(name_or_path)
        self.pooling = pooling
        source = str(find_weights(name_or_path, "text") or name_or_path)
        self.tokenizer: Any = load_tokenizer(source)
        self.model: Any = load_text_model(source)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # its output is not used, and parameters without gradient break multi-GPU training
        self.embed_dim = int(self.model.config.hidden_size)
        self._takes_ready_masks = self._probed()
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
    def _probed(self) -> bool:
        """Whether this model takes ready masks: some fail, and those that look back only look ahead by them.

        Raises:
            ValueError: the pooling is "cls", and the first token does not see the words after it.
        """
        tokens = self.tokenizer(["an image", "an image of a b c"], padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        was_training = self.model.training
        self.model.eval()
        try:
            plain = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            self._check_first_token(plain[:, 0], mask)
            ready = self._with_ready_mask(ids, mask)
            return ready is not None and torch.allclose(plain[mask > 0], ready[mask > 0], rtol=1e-3, atol=1e-4)
        finally:
            self.model.train(was_training)

    def _with_ready_mask(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        try:
            hidden: torch.Tensor = self.model(input_ids=ids, attention_mask=self._ready_mask(mask)).last_hidden_state
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None
        return hidden

    def _check_first_token(self, first: torch.Tensor, mask: torch.Tensor) -> None:
        """Refuses to pool the first token of two texts that begin alike where it is the same of both, or no token."""
        if self.pooling != "cls":
            return
        found = None
        if not mask[:, 0].all():
            found = "its tokenizer pads on the left, where the first token would be"
        elif torch.allclose(first[0], first[1], rtol=1e-5, atol=1e-6):
            found = "its first token does not see the words after it, so that all prompts would be alike"
        if found:
            raise ValueError(f"text pooling is 'cls', and of {self.name_or_path} {found}. Fix: set it to 'mean'")
