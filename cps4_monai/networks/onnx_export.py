"""A network as ONNX: one file for any number of slices of any size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from cps4_monai.extras import require

OPSET = 20
TOLERANCE = 1e-3  # of the largest logit, between ONNX Runtime and torch; rounding stays below a hundredth of it
INPUT, OUTPUT = "image", "pred"  # the names in metadata.json
_EXAMPLE = (2, 64, 48)  # slices, height, width: small, and no two alike, so that none is taken for another


def to_onnx(network: nn.Module, properties: Mapping[str, str] | None = None, in_channels: int = 1) -> bytes:
    """Bytes of an ONNX file that computes what the network does in evaluation mode.

    Args:
        network: (B, in_channels, H, W) to logits (B, C, H, W), float32, on the CPU; left in evaluation mode.
        properties: kept in the file (``metadata_props``), such as where its weights come from.
        in_channels: channels of its input.

    Raises:
        MissingExtraError: the packages of the extra are missing.
        ValueError: the network takes no free number and size of slices.
    """
    require("onnxscript", "exporting a network")  # torch's exporter asks for it later, with a longer traceback
    onnx = require("onnx", "exporting a network")
    slices, height, width = _EXAMPLE
    divisor = _divisor(network)  # a deepest level of one pixel in a direction would be taken for one of that size only
    example = torch.zeros(slices, in_channels, max(height, 2 * divisor), max(width, 3 * divisor))
    free = {0: torch.export.Dim("slices"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    try:
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(free,),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"{type(network).__name__} cannot be exported to ONNX for slices of any number and size "
            f"({str(error).strip().splitlines()[0]}); export the bundle without --onnx"
        ) from error
    assert program is not None  # what torch returns for dynamo=True
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(properties or {}))
    return model.SerializeToString()


def _divisor(network: nn.Module) -> int:
    """Pixels of an image for one of the deepest level; 1 where the network does not say."""
    return int(getattr(network, "divisor", 1))


def check_onnx(content: bytes, network: nn.Module, in_channels: int = 1) -> None:
    """The file computes what the network does, on slices of another number and size than those of the export.

    Args:
        content: bytes of the ONNX file.
        network: as :func:`to_onnx` takes it.
        in_channels: channels of its input.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ValueError: the logits differ by more than rounding.
    """
    onnxruntime = require("onnxruntime", "checking an exported network")
    divisor = _divisor(network)
    slices, height, width = 3, max(72, 3 * divisor + 8), max(40, 2 * divisor + 8)
    probe = (torch.arange(slices * in_channels * height * width) / 7).sin().view(slices, in_channels, height, width)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run([OUTPUT], {INPUT: probe.numpy()})
    with torch.no_grad():
        expected = network.eval()(probe).float()
    if logits.shape != tuple(expected.shape):
        raise ValueError(f"ONNX gives {logits.shape} where torch gives {tuple(expected.shape)}; export without --onnx")
    apart, largest = float((expected - torch.from_numpy(logits)).abs().max()), float(expected.abs().max())
    if not apart <= TOLERANCE * largest:
        raise ValueError(
            f"ONNX and torch differ by {apart:.3g} on logits of up to {largest:.3g}; expected rounding only. "
            "Fix: export without --onnx, or with other versions of torch and onnxscript"
        )
