"""Eq. 3: attention logits to the text pseudo-label y_text, as tensor functions that never synchronise with the host."""

from __future__ import annotations

from cps4_monai.prompt_map.mapper import PromptMapper
from cps4_monai.prompt_map.otsu import otsu_threshold
from cps4_monai.prompt_map.provider import CachedVLMProvider, PseudoLabelProvider, VLMProvider, make_provider
from cps4_monai.prompt_map.stacking import stack_prompt_maps

__all__ = [
    "CachedVLMProvider",
    "PromptMapper",
    "PseudoLabelProvider",
    "VLMProvider",
    "make_provider",
    "otsu_threshold",
    "stack_prompt_maps",
]
