"""Which extra of this package brings which module, and the one line that whoever lacks one is told."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

from cps4_monai.failure import chain_of

# Extra -> the modules that it brings. A module of two extras stands with the one that its users are told to install.
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": (
        "ignite",
        "timm",
        "torchvision",
        "transformers",
        "safetensors",
        "tensorboard",
        "tqdm",
        "yaml",
    ),
    "bundle": ("fire", "jsonschema"),
    "dicom": ("SimpleITK", "pydicom", "gdcm", "highdicom"),
    "slicer": ("nrrd",),
    "zoo": ("isort",),
    "tracking": ("mlflow",),
    "weights": ("onnx",),
    "onnx": ("onnxscript", "onnxruntime"),
    "cluster": ("distributed", "dask", "dask_jobqueue"),
}
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")


class MissingExtraError(ImportError):
    """Something was asked for whose packages are not installed; the message names the extra that brings them."""

    told_to_users = True  # see cps4_monai.failure


def require(module: str, wanted_by: str) -> ModuleType:
    """The module, imported.

    Args:
        module: one of ``EXTRAS``.
        wanted_by: what cannot be had without it; the message begins with it, e.g. "DICOM".

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise MissingExtraError(f"{wanted_by} needs {missing(module)}") from error


def missing(*modules: str) -> str:
    """What is not there and how to get it: "onnx and onnxscript, not installed here: pip install ..."."""
    extra = next(name for name, brought in EXTRAS.items() if modules[0].split(".")[0] in brought)
    return f'{" and ".join(modules)}, not installed here: pip install "cps4-monai[{extra}]"'


def explain(error: BaseException, wanted_by: str) -> str | None:
    """The one line for an error behind which a module of an extra is missing; None where another one is.

    MONAI catches failed imports and raises errors of its own later: causes, contexts and messages are looked through.
    """
    known = {module for brought in EXTRAS.values() for module in brought}
    for cause in chain_of(error):
        if isinstance(cause, MissingExtraError):
            return str(cause)
        if isinstance(cause, ImportError):
            match = _NO_MODULE.search(str(cause))
            name = (cause.name or (match[1] if match else "")).split(".")[0]
            if name in known:
                return f"{wanted_by} needs {missing(name)}"
    return None
