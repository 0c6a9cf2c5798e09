"""The device that a setting names, checked before any work begins."""

from __future__ import annotations

import torch


def select_device(name: str | torch.device = "auto") -> torch.device:
    """Device by name: "auto" takes the first GPU where there is one, else the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ValueError: the name is no device, or the device asked for is not on this machine.
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(
                f"device is {str(device)!r}, but this machine has {count} CUDA GPUs; set device to auto or cpu"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device is 'mps', but Apple's GPU is not available here; set device to auto or cpu")
    return device
