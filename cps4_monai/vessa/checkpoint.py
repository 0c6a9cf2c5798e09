"""The file between the stages of the assistant: tensors and plain types, without a pixel of the labeled slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cps4_monai.anatomy import Anatomy
from cps4_monai.plan import Plan
from cps4_monai.vessa.assistant import Assistant, FrozenAssistant
from cps4_monai.vessa.mask_decoder import SmallSam
from cps4_monai.vessa.prompts import StoredPrompts
from cps4_monai.vessa.reference import SmallReference
from cps4_monai.vessa.template_bank import TemplateBank
from cps4_monai.vision.encoder import VisionEncoder
from cps4_monai.vision.stage1_file import ASSISTANT, check_run, read_stage1_file, restored, write_stage1_file


def save_assistant(path: str | Path, assistant: Assistant, anatomy: Anatomy, plan: Plan | None = None) -> None:
    """Writes the result of stage 1; a file that is there already is replaced only by a complete one.

    Of the template bank it holds ids of slices and a digest; of a vision-language model in a local folder the digest
    and what was trained of it, not the model.

    Args:
        path: the file; its folder is made where it does not exist.
        assistant: from ``Assistant.freeze()``.
        anatomy: the classes and prompts that it was trained with.
        plan: of the run: spacing, in-plane mode and percentiles of the slices that it saw.

    Raises:
        ValueError: the assistant has another number of classes than the anatomy.
        OSError: the folder cannot be written or the disk is full; the earlier file is still whole.
    """
    bank = {"slice_ids": list(assistant.bank.slice_ids), "digest": assistant.bank.digest}
    own = None if plan is None else plan.of_labeled_scans()
    write_stage1_file(path, ASSISTANT, assistant, anatomy, own, bank=bank)


def load_assistant(
    path: str | Path,
    bank: TemplateBank,
    anatomy: Anatomy | None = None,
    unannotated: Sequence[int] | None = None,
    image_size: Sequence[int] | None = None,
    map_location: str | torch.device = "cpu",
    plan: Plan | None = None,
    vlm_folder: str | Path | None = None,
) -> FrozenAssistant:
    """The frozen assistant of stage 1, held against the settings of this run.

    Args:
        path: a file of :func:`save_assistant`.
        bank: the labeled slices that stage 1 had, read again.
        anatomy: classes and prompts of this run; None: not compared.
        unannotated: codes that this run leaves out; must cover those that stage 1 did not train. None: not compared.
        image_size: (H, W) of this run's slices; None: not compared.
        map_location: device of the tensors.
        plan: of this run, whose slices must have the pixels of stage 1's; None: not compared.
        vlm_folder: where the vision-language model lies, if stage 1 had one.

    Raises:
        ValueError: no such file, another kind of file, or labeled slices, settings or a model that differ from stage
            1's; says which and the fix.
    """
    content = read_stage1_file(path, ASSISTANT, map_location, own=("bank",))
    check_run(path, content, anatomy, unannotated, image_size, plan)
    _check_bank(path, content["bank"], bank)
    return restored(path, content, lambda: _build(content, bank, vlm_folder)).to(map_location)


def _check_bank(path: str | Path, stored: Mapping[str, Any], bank: TemplateBank) -> None:
    if stored["digest"] != bank.digest:
        raise ValueError(
            f"stage-1 checkpoint {path} has {len(stored['slice_ids'])} templates of digest {stored['digest'][:12]}; "
            f"the labeled slices of this run are {len(bank)} of digest {bank.digest[:12]}. Fix: use the datalist, the "
            "labeled share and vessa_max_templates of stage 1, or run training_stage1 again"
        )


def _build(content: Mapping[str, Any], bank: TemplateBank, vlm_folder: str | Path | None) -> FrozenAssistant:
    arguments = dict(content["arguments"])
    encoder = VisionEncoder(**arguments.pop("image_encoder"))
    prompts = StoredPrompts(torch.zeros(bank.num_classes, arguments.pop("text_dim")))
    reference = _part(arguments.pop("reference"), vlm_folder)
    mask_decoder = _part(arguments.pop("mask_decoder"), vlm_folder)
    return FrozenAssistant(
        encoder, prompts, reference, mask_decoder, bank, unannotated=content["unannotated"], **arguments
    )


def _part(arguments: Mapping[str, Any], vlm_folder: str | Path | None) -> nn.Module:
    """A part of this package by the name of its class; nothing that a file names is executed."""
    given = {key: value for key, value in arguments.items() if key != "class"}
    name = arguments["class"]
    if name == "SmallReference":
        return SmallReference(**given)
    if name == "SmallSam":
        return SmallSam(**given)
    if name == "LocalSam2":
        from cps4_monai.vessa.local_sam2 import LocalSam2

        return LocalSam2(**given)
    if name == "LocalVLM":
        from cps4_monai.vessa.local_vlm import LocalVLM

        return LocalVLM(folder=vlm_folder, **given)
    raise KeyError(f"no part of this package is called {name!r}")
