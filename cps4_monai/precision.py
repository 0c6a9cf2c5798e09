"""Mixed precision where the hardware computes it, float32 elsewhere: one decision for every command and config."""

from __future__ import annotations

import contextlib
import logging
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch

from cps4_monai.true_or_false import true_or_false

logger = logging.getLogger(__name__)

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_X86, _ARM = ("x86_64", "amd64", "i686", "x86"), ("aarch64", "arm64")


class Precision:
    """In which type networks compute on a device, and whether their gradients are scaled.

    ``amp`` asks for reduced precision where the hardware computes it natively (:func:`reduced_dtype`); elsewhere it is
    slower than float32, on CPUs without bfloat16 by a factor of 80, and all stays float32.

    Args:
        device: where the networks are.
        amp: whether to compute in mixed precision where that is native.
        dtype: "float16" or "bfloat16" forces that type wherever ``amp`` is on; None follows the device.

    Attributes:
        dtype: of the autocast; None: all is float32, and autocast is off.
        scaled: whether gradients need a scaler, as those of float16 do.

    Raises:
        ValueError: an unknown dtype.
    """

    def __init__(self, device: str | torch.device = "cpu", amp: bool = False, dtype: str | None = None) -> None:
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"amp_dtype is {dtype!r}; expected one of {sorted(_DTYPES)}, or null for the device's own")
        device = torch.device(device)
        self.device_type = device.type
        self.dtype: torch.dtype | None = None
        if true_or_false(amp, "amp"):
            native = dtype is None and computes_bfloat16(device)
            self.dtype = reduced_dtype(device.type, native, dtype)
            if self.dtype is None:
                logger.info(
                    "amp is on, but %s does not compute bfloat16 natively: float32 is used, as the faster", device
                )
        self.scaled = self.dtype == torch.float16

    @property
    def name(self) -> str:
        """ "float32", "float16" or "bfloat16"."""
        return "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")

    def new_scaler(self) -> torch.amp.GradScaler | None:
        """A gradient scaler at its start, of which each training has its own; None where nothing needs scaling."""
        return torch.amp.GradScaler(self.device_type) if self.scaled else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Context for the forward pass and the losses."""
        return contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device_type, dtype=self.dtype)


def reduced_dtype(device_type: str, native_bfloat16: bool, asked: str | None = None) -> torch.dtype | None:
    """The type of mixed precision; None where float32 is the better choice.

    Args:
        device_type: "cpu", "cuda", "mps", ...
        native_bfloat16: whether the device computes bfloat16 in hardware.
        asked: "float16" or "bfloat16" to force that type.
    """
    if asked is not None:
        return _DTYPES[asked]
    if native_bfloat16:
        return torch.bfloat16
    return torch.float16 if device_type == "cuda" else None  # every GPU of CUDA computes float16


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device computes bfloat16 natively, as far as torch can tell."""
    if device.type == "cpu":
        kernels = torch.backends.cpu.get_cpu_capability()
        return cpu_computes_bfloat16(platform.machine(), _onednn_bfloat16(), _x86_bfloat16(), kernels)
    if device.type == "cuda":
        if torch.version.hip is not None:
            return True
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later
    if device.type == "mps":  # older systems have no bfloat16 at all
        return torch.backends.mps.is_available() and torch.backends.mps.is_macos_or_newer(14, 0)
    return False


def cpu_computes_bfloat16(machine: str, onednn: bool, instructions: bool, kernels: str) -> bool:
    """Whether a CPU has bfloat16 arithmetic and torch uses it.

    oneDNN alone says yes on every x86 CPU with AVX-512, bfloat16 or not; the processor alone says yes where environment
    variables (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY) keep torch from using what it has.

    Args:
        machine: architecture, as of ``platform.machine()``.
        onednn: oneDNN's answer; on Arm it asks the processor itself.
        instructions: the x86 processor has AVX-512 BF16 or AMX.
        kernels: of torch itself, as of ``torch.backends.cpu.get_cpu_capability()``, e.g. "AVX2" or "AVX512".
    """
    if machine.lower() in _ARM:
        return onednn
    return machine.lower() in _X86 and onednn and instructions and kernels.upper().startswith("AVX512")


def _onednn_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _x86_bfloat16() -> bool:
    """Torch has no public question for either; a version without them is taken to have no answer: no."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
