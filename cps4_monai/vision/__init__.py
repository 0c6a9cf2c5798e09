"""Vision side of the vision-language model: slices to patch tokens to attention logits.

Each public name is loaded when it is first used: where timm is not installed, the file between the stages can be read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cps4_monai.vision.checkpoint import load_prompted_vision, save_prompted_vision
    from cps4_monai.vision.encoder import VisionEncoder
    from cps4_monai.vision.masked_autoencoder import MaskedAutoencoder, save_image_encoder
    from cps4_monai.vision.prompted import PromptedVision
    from cps4_monai.vision.stage1_file import holds_prompted_vision

__all__ = [
    "MaskedAutoencoder",
    "PromptedVision",
    "VisionEncoder",
    "holds_prompted_vision",
    "load_prompted_vision",
    "save_image_encoder",
    "save_prompted_vision",
]

_MODULES = {
    "MaskedAutoencoder": "masked_autoencoder",
    "PromptedVision": "prompted",
    "VisionEncoder": "encoder",
    "holds_prompted_vision": "stage1_file",
    "load_prompted_vision": "checkpoint",
    "save_image_encoder": "masked_autoencoder",
    "save_prompted_vision": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"cps4_monai.vision.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
