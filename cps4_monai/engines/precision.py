"""Mixed precision that follows the device, where MONAI's own trainers know CUDA only."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Precision:
    """Autocast type and gradient scaler of a device.

    Args:
        device: where the networks are.
        amp: whether to compute in mixed precision at all.
        dtype: "float16", "bfloat16", or None: float16 on CUDA, bfloat16 elsewhere (what CPUs are fast in).

    Attributes:
        scaler: of float16 gradients; None where nothing needs scaling.

    Raises:
        ValueError: an unknown dtype.
    """

    def __init__(self, device: torch.device, amp: bool = False, dtype: str | None = None) -> None:
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"amp_dtype is {dtype!r}; expected one of {sorted(_DTYPES)}, or null for the device's own")
        self.device_type = device.type
        self.amp = amp
        self.dtype = _DTYPES[dtype or ("float16" if device.type == "cuda" else "bfloat16")]
        needs_scaler = amp and self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device_type) if needs_scaler else None

    def autocast(self) -> AbstractContextManager:
        """Context for the forward pass and the losses."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.amp)
