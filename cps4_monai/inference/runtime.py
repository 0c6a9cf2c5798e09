"""What runs the network: torch, or on a CPU ONNX Runtime, or the faster of the two."""

from __future__ import annotations

import logging
import statistics
import time
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import nn

from cps4_monai.device import select_device
from cps4_monai.extras import MissingExtraError, missing
from cps4_monai.inference.bundle import ONNX, Bundle

logger = logging.getLogger(__name__)

RUNTIMES = ("torch", "onnx", "auto")
TIMED_ROUNDS = 3
TIMED_SLICES = (2, 224, 128)  # slices, height, width


def device_for(runtime: str, device: str) -> torch.device:
    """The device that a runtime uses, where ``device`` is what was asked for.

    Raises:
        ValueError: no such runtime or device, or ONNX on a GPU.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime is {runtime!r}; expected {', '.join(RUNTIMES)}")
    chosen = select_device("cpu" if runtime == "onnx" and device == "auto" else device)
    if runtime == "onnx" and chosen.type != "cpu":
        raise ValueError(
            f"runtime is 'onnx' and device {str(chosen)!r}; ONNX is used on CPUs only: choose the device cpu, or the "
            "runtime torch"
        )
    return chosen


def check_packages(runtime: str, bundle: Bundle) -> None:
    """The packages that a runtime needs are installed.

    Raises:
        MissingExtraError: one is missing.
    """
    lacking = missing_packages(bundle)
    if runtime == "onnx" and lacking:
        raise MissingExtraError(f"the runtime 'onnx' needs {missing(*lacking)}, or choose the runtime torch")


def missing_packages(bundle: Bundle) -> list[str]:
    """Packages of the extra that are missing; a bundle that ships its ONNX file needs no exporter."""
    needed = ["onnxruntime"] if bundle.read(ONNX) is not None else ["onnxruntime", "onnx", "onnxscript"]
    return [name for name in needed if find_spec(name) is None]


def build_network(bundle: Bundle, runtime: str, device: torch.device) -> tuple[nn.Module, str]:
    """The network of a bundle, ready to run, and a line that says what runs it.

    With "auto", both are timed in turns on the CPU, which takes about a second; on a GPU it is torch.

    Raises:
        MissingExtraError: packages of the runtime are missing.
        ValueError: weights that cannot be used.
    """
    network, torch_line = bundle.build_network(device), f"torch {torch.__version__}"
    if runtime == "torch" or device.type != "cpu":
        return network, torch_line
    lacking = missing_packages(bundle)
    if runtime == "auto" and lacking:
        return network, f"{torch_line}, {' and '.join(lacking)} not installed"
    from cps4_monai.inference.onnx_network import onnx_network

    other, onnx_line = onnx_network(bundle, network), f"onnxruntime {version('onnxruntime')}"
    if runtime == "onnx":
        return other, onnx_line
    ratio = speed_ratio(network, other)
    logger.info("ONNX is %.2f times as fast as torch on this machine", ratio)
    if ratio > 1:
        return other, f"{onnx_line}, {ratio:.2f} times as fast as torch"
    return network, f"{torch_line}, ONNX {ratio:.2f} times as fast"


def speed_ratio(network: nn.Module, other: nn.Module, rounds: int = TIMED_ROUNDS) -> float:
    """How many times as fast the other network is: the median over rounds in which both run, one after the other."""
    from cps4_monai.inference.onnx_network import probe_slices

    probe = probe_slices(*TIMED_SLICES).to(memory_format=torch.channels_last)
    ratios = []
    with torch.no_grad():
        for index in range(rounds + 1):
            first, second = _seconds(network, probe), _seconds(other, probe)
            if index:  # the first round warms up
                ratios.append(first / second)
    return statistics.median(ratios)


def _seconds(network: nn.Module, probe: torch.Tensor) -> float:
    started = time.perf_counter()
    network(probe)
    return time.perf_counter() - started
