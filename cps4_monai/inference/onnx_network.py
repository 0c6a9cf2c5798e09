"""The bundle's network in ONNX Runtime: out of the bundle, out of the user's cache, or exported when first needed."""

from __future__ import annotations

import hashlib
import logging

import torch
from torch import nn

from cps4_monai import __version__
from cps4_monai.atomic_file import write_atomically
from cps4_monai.cache_folder import cache_folder
from cps4_monai.extras import require
from cps4_monai.inference.bundle import ONNX, Bundle

logger = logging.getLogger(__name__)

WEIGHTS_KEY = "weights_sha256"
TOLERANCE = 1e-3  # of the largest logit, between the two runtimes; rounding stays below a hundredth of it


class OnnxNetwork(nn.Module):
    """An ONNX file as a network on the CPU.

    Args:
        content: the file's bytes.
        threads: of one pass; default: as many as torch uses.

    Attributes:
        weights_sha256: SHA-256 of the weights that it was made from; empty where the file does not say.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ValueError: no ONNX file that can be run here, or one with several inputs or outputs.
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        onnxruntime = require("onnxruntime", "running an ONNX file")
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that wait would otherwise spin, on cores that read and write the next and the last scan.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each kind of damage
            raise ValueError(f"not an ONNX file that can be run here ({error})") from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"the ONNX file has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
        self._input = inputs[0].name
        self.weights_sha256 = self.session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY, "")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) float32 on the CPU to logits (B, C, H, W)."""
        (logits,) = self.session.run(None, {self._input: image.contiguous().numpy()})
        return torch.from_numpy(logits)


def onnx_network(bundle: Bundle, network: nn.Module) -> OnnxNetwork:
    """The network of a bundle in ONNX Runtime, checked against torch before it is used.

    A ``models/model.onnx`` in the bundle is taken where it was made from the bundle's own weights; otherwise a file
    in the user's cache folder, keyed by the weights, the network and the versions; otherwise it is exported there.

    Args:
        bundle: where the weights come from.
        network: the same network in torch, on the CPU.

    Raises:
        MissingExtraError: packages are missing.
        ValueError: the network cannot be exported, or both runtimes disagree.
    """
    found = _shipped(bundle) or _cached(bundle, network)
    check_agreement(network, found)
    return found


def check_agreement(network: nn.Module, other: nn.Module) -> None:
    """Both networks answer a probe alike.

    Raises:
        ValueError: they do not; the message says by how much.
    """
    probe = probe_slices(2, 72, 40)
    with torch.no_grad():
        expected, found = network(probe).float(), other(probe).float()
    if expected.shape != found.shape:
        raise ValueError(
            f"ONNX gives {tuple(found.shape)} where torch gives {tuple(expected.shape)}; use runtime torch"
        )
    apart, largest = float((expected - found).abs().max()), float(expected.abs().max())
    if not apart <= TOLERANCE * largest:
        raise ValueError(
            f"ONNX and torch differ by {apart:.3g} on logits of up to {largest:.3g}; expected rounding only: use the "
            f"runtime torch, or remove {cache_folder()}/*.onnx and the bundle's {ONNX}, so that the network is "
            "exported again"
        )


def probe_slices(slices: int, height: int, width: int) -> torch.Tensor:
    """Waves of all directions in [0, 1], (slices, 1, height, width): the same everywhere, and no random state moved."""
    rows, columns = torch.arange(height)[:, None] / 7, torch.arange(width)[None] / 5
    waves = [torch.sin(rows + index) * torch.cos(columns * (1 + 0.3 * index)) for index in range(slices)]
    return (torch.stack(waves)[:, None] + 1) / 2


def _shipped(bundle: Bundle) -> OnnxNetwork | None:
    content = bundle.read(ONNX)
    if content is None:
        return None
    try:
        found = OnnxNetwork(content)
    except ValueError as error:
        logger.warning("%s: %s is left out: %s", bundle.path, ONNX, error)
        return None
    if found.weights_sha256 != bundle.sha256:
        logger.warning("%s: %s is left out: it was made from other weights", bundle.path, ONNX)
        return None
    return found


def _cached(bundle: Bundle, network: nn.Module) -> OnnxNetwork:
    made_of = "\n".join([bundle.sha256, str(network), torch.__version__, __version__])
    path = cache_folder() / f"{hashlib.sha256(made_of.encode()).hexdigest()}.onnx"
    try:
        return OnnxNetwork(path.read_bytes())
    except (OSError, ValueError):
        logger.info("exporting the network to ONNX, once for these weights")
    content = bundle_to_onnx(bundle, network)
    try:
        write_atomically(path, content, shared=True)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the network is exported again at the next start", path, error)
    return OnnxNetwork(content)


def bundle_to_onnx(bundle: Bundle, network: nn.Module) -> bytes:
    """ONNX file of a bundle's network, which knows the weights that it was made from.

    Raises:
        ValueError: see :func:`cps4_monai.networks.onnx_export.to_onnx`.
    """
    from cps4_monai.networks.onnx_export import to_onnx

    return to_onnx(network, {WEIGHTS_KEY: bundle.sha256})
