"""The VESSA-style assistant: labeled slices as templates, a reference encoder, a mask decoder with a memory."""

from __future__ import annotations

from cps4_monai.vessa.assistant import Assistant, FrozenAssistant, build_assistant
from cps4_monai.vessa.checkpoint import load_assistant, save_assistant
from cps4_monai.vessa.feedback import SimulatedFeedback
from cps4_monai.vessa.label_map import LabelMap
from cps4_monai.vessa.mask_decoder import SmallSam
from cps4_monai.vessa.prompts import EncodedPrompts, StoredPrompts
from cps4_monai.vessa.provider import AssistantProvider
from cps4_monai.vessa.reference import SmallReference
from cps4_monai.vessa.template_bank import TemplateBank

__all__ = [
    "Assistant",
    "AssistantProvider",
    "EncodedPrompts",
    "FrozenAssistant",
    "LabelMap",
    "SimulatedFeedback",
    "SmallReference",
    "SmallSam",
    "StoredPrompts",
    "TemplateBank",
    "build_assistant",
    "load_assistant",
    "save_assistant",
]
