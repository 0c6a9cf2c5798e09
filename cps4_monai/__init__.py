"""CPS4: class-prompt-driven semi-supervised segmentation of vertebrae and discs in spine MRI.

Importing the package imports none of torch, MONAI or transformers; each public name loads what it needs when it is
first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.4.0"

_LAZY = {
    "Anatomy": "cps4_monai.anatomy",
    "MRSPINESEG": "cps4_monai.anatomy",
    "load_anatomy": "cps4_monai.anatomy",
    "CPS4Workflow": "cps4_monai.workflow",
    "segment": "cps4_monai.inference.segment",
    "Segmenter": "cps4_monai.inference.segment",
    "segment_scans": "cps4_monai.inference.batch",
}

# Subpackages that bundle configs reach by attribute, as in "$cps4_monai.networks.finetune_from(...)".
_ROOMS = (
    "data",
    "handlers",
    "losses",
    "methods",
    "metrics",
    "networks",
    "prompt_map",
    "run_folder",
    "text",
    "vision",
    "vlm",
)

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"cps4_monai.{name}")
    raise AttributeError(f"module 'cps4_monai' has no attribute {name!r}")
