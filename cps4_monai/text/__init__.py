"""Text side of the vision-language model: class prompts to embeddings."""

from __future__ import annotations

from cps4_monai.text.encoder import TextEncoder
from cps4_monai.text.tiny import write_tiny_text_encoder

__all__ = ["TextEncoder", "write_tiny_text_encoder"]
