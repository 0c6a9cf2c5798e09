"""Vision side of the vision-language model: slices to patch tokens to attention logits."""

from __future__ import annotations

from cps4_monai.vision.checkpoint import load_prompted_vision, save_prompted_vision
from cps4_monai.vision.encoder import VisionEncoder
from cps4_monai.vision.masked_autoencoder import MaskedAutoencoder, save_image_encoder
from cps4_monai.vision.prompted import PromptedVision

__all__ = [
    "MaskedAutoencoder",
    "PromptedVision",
    "VisionEncoder",
    "load_prompted_vision",
    "save_image_encoder",
    "save_prompted_vision",
]
