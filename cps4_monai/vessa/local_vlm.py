"""A Hugging Face vision-language model, from a local folder, as the assistant's reference encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from cps4_monai.vessa.local_folder import folder_digest, load_locally
from cps4_monai.vessa.parts import Picture, Templates

SEG = "<SEG>"
BLEND = 0.5


class LocalVLM(nn.Module):
    """Picture, best template with its mask in class colours, and texts in; the answer "name: <SEG>" per class out.

    The model itself stays as it was trained and is in no state dict. What trains are the embedding and the output row
    of the new token ``<SEG>``, and two linear layers from its hidden state to the prompt of a class (as in LISA;
    nothing is copied). The answer is given in full, so that one pass asks for all classes; while training, the
    cross-entropy of its words is the text loss.

    Args:
        folder: where model, processor and tokenizer were saved.
        names: what each class is called, by code.
        colours: (C, 3) of the classes, 0 to 255; the first one, of the background, is not drawn.
        width: of the answer.
        digest: of the folder that stage 1 had; None: any.

    Raises:
        ValueError: a folder that holds no such model, or another one than stage 1 had; a tokenizer that splits
            ``<SEG>``.
    """

    waits_for_device = True
    colours: Tensor

    def __init__(
        self,
        folder: str | Path | None,
        names: Sequence[str],
        colours: Sequence[Sequence[int]],
        width: int = 256,
        digest: str | None = None,
    ) -> None:
        super().__init__()
        model: Any = load_locally(AutoModelForImageTextToText, folder, "vision-language model", "vessa_vlm_folder")
        self.processor: Any = load_locally(AutoProcessor, folder, "processor", "vessa_vlm_folder")
        known = folder_digest(folder)  # type: ignore[arg-type]
        if digest not in (None, known):
            raise ValueError(
                f"vessa_vlm_folder is {folder}, of digest {known[:12]}; stage 1 had a model of digest "
                f"{str(digest)[:12]}. Fix: name the folder of stage 1, or run training_stage1 again"
            )
        self.arguments: dict[str, Any] = {
            "names": list(names),
            "colours": [[int(value) for value in colour] for colour in colours],
            "width": width,
            "digest": known,
        }
        self.processor.tokenizer.add_special_tokens({"additional_special_tokens": [SEG]})
        self.seg_id = int(self.processor.tokenizer.convert_tokens_to_ids(SEG))
        table = model.get_input_embeddings()
        if self.seg_id >= table.num_embeddings:
            model.resize_token_embeddings(self.seg_id + 1)
        object.__setattr__(self, "model", model.eval().requires_grad_(False))  # no submodule: in no state dict
        row, head = model.get_input_embeddings().weight[self.seg_id], model.get_output_embeddings().weight[self.seg_id]
        self.seg_embedding, self.seg_output = nn.Parameter(row.clone().float()), nn.Parameter(head.clone().float())
        hidden = int(row.numel())
        self.answer = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.register_buffer("colours", torch.tensor(self.arguments["colours"]) / 255, persistent=False)
        self.answer_text = ", ".join(f"{name}: {SEG}" for name in names)
        self.text = self._write(names)

    model: Any

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LocalVLM:
        self.model._apply(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalVLM:
        """A copy of what trains, around the same model."""
        memo[id(self.model)] = self.model
        memo[id(self.processor)] = self.processor
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        clone.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        return clone

    def _write(self, names: Sequence[str]) -> str:
        """Question and answer as the model's processor wants them, with two pictures before."""
        question = (
            "The second picture is an example: each structure in it has a colour. Find the same structures in the first"
            f" picture: {', '.join(names)}."
        )
        if getattr(self.processor, "chat_template", None):
            pictures = [{"type": "image"}, {"type": "image"}]
            messages = [
                {"role": "user", "content": [*pictures, {"type": "text", "text": question}]},
                {"role": "assistant", "content": [{"type": "text", "text": self.answer_text}]},
            ]
            return str(self.processor.apply_chat_template(messages, tokenize=False))
        return f"{2 * self.processor.image_token} {question} {self.answer_text}"

    def overlay(self, templates: Templates) -> Tensor:
        """The best template with its mask blended in, (B, 3, H, W) in [0, 1]; black where there is none."""
        image, codes = templates.images[:, 0].float(), templates.labels[:, 0, 0].long()
        coloured = (codes > 0) & (codes < len(self.colours))
        colour = self.colours[torch.where(coloured, codes, 0)].movedim(-1, 1)
        blended = torch.where(coloured.unsqueeze(1), (1 - BLEND) * image + BLEND * colour, image)
        return blended * templates.there[:, None, None, None]

    def forward(self, picture: Picture, templates: Templates, prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`cps4_monai.vessa.parts.ReferenceEncoder`; `prompts` are not read, the texts are its own."""
        images = [picture.image.float().expand(-1, 3, -1, -1), self.overlay(templates)]
        pairs = [list(pair) for pair in zip(*(list(part.cpu()) for part in images), strict=True)]
        inputs = self.processor(
            text=[self.text] * len(pairs), images=pairs, do_rescale=False, padding=True, return_tensors="pt"
        ).to(picture.image.device)
        ids = inputs["input_ids"]
        hook = self.model.get_input_embeddings().register_forward_hook(self._own_embedding)
        try:
            states = self.model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
        finally:
            hook.remove()
        places = (ids == self.seg_id).nonzero()
        seg = states[places[:, 0], places[:, 1]].unflatten(0, (len(ids), -1)).to(self.answer[0].weight.dtype)
        return self.answer(seg), self._text_loss(ids, states) if self.training else None

    def _own_embedding(self, table: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Puts the trained embedding where the text has <SEG>."""
        return torch.where((inputs[0] == self.seg_id).unsqueeze(-1), self.seg_embedding.to(output.dtype), output)

    def _text_loss(self, ids: Tensor, states: Tensor) -> Tensor:
        """Cross-entropy of the answer's tokens, from the first class's name on, each given those before it."""
        wanted, before = ids[:, 1:], states[:, :-1].float()
        in_answer = self._in_answer(ids)[:, 1:]
        head = self.model.get_output_embeddings()
        before, wanted = before[in_answer], wanted[in_answer]
        logits = F.linear(before, head.weight.float())
        of_seg = before @ self.seg_output
        logits = torch.cat((logits[:, : self.seg_id], of_seg[:, None], logits[:, self.seg_id + 1 :]), dim=1)
        return F.cross_entropy(logits, wanted)

    def _in_answer(self, ids: Tensor) -> Tensor:
        """(B, L) bool: tokens of the answer, which ends at the last <SEG>; all texts are the same."""
        tokens = self.processor.tokenizer(self.answer_text, add_special_tokens=False)["input_ids"]
        position = torch.arange(ids.shape[1], device=ids.device)
        last = torch.where(ids == self.seg_id, position, -1).amax(1, keepdim=True)
        return (position <= last) & (position > last - len(tokens))
