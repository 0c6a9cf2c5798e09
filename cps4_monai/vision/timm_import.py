"""What this package uses of timm, also where the compiled part of torchvision, which timm imports, does not load.

The package index has torchvision for CUDA only. Beside a torch for CPUs its library of operators cannot be loaded, and
``import torchvision`` fails at ``torchvision::nms``, for which it registers the shape of the output. timm needs that
import, but none of the operators: declared without a computation, they let it pass.
"""

from __future__ import annotations

import importlib

import torch

# Those that torchvision registers shapes for whether or not its library was loaded.
OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_DECLARED: list[torch.library.Library] = []  # an operator lives as long as the library that declares it


def import_torchvision() -> None:
    """Imports torchvision; where its operators are not there, they are declared first, and fail when they are called.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
        RuntimeError: it cannot be imported for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in OPERATORS:
            if not hasattr(torch.ops.torchvision, name):
                _DECLARED[-1].define(f"{name}{SCHEMA}")
        importlib.import_module("torchvision")


import_torchvision()

import timm  # noqa: E402  after torchvision
import timm.data  # noqa: E402
from timm.layers import HybridEmbed, resample_abs_pos_embed, use_fused_attn  # noqa: E402
from timm.models import adapt_input_conv, clean_state_dict, load_state_dict  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402
from timm.models.vision_transformer_hybrid import ConvStem  # noqa: E402

__all__ = [
    "Block",
    "ConvStem",
    "HybridEmbed",
    "VisionTransformer",
    "adapt_input_conv",
    "clean_state_dict",
    "load_state_dict",
    "resample_abs_pos_embed",
    "timm",
    "use_fused_attn",
]
